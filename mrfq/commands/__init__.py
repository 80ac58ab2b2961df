"""What the commands on models in files do: `mrfq solve`, `mrfq generate`, `mrfq inspect`."""
