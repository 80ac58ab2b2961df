"""`mrfq quantize`: post-training quantization of any torch network, layer by layer."""
