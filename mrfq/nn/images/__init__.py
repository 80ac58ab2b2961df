"""Images to train on, from files in a folder that the user names: MNIST, CIFAR-10, and scikit-learn's digits.

::

    data = load_images("mnist", "folder", device="cuda")
    batches = ImageBatches(data, "train", 100, seed=0, augment=Augment(shift=1))
    inputs, labels = batches.shuffled(0)        # normalised, on the device

Nothing is downloaded, and nothing in a file is trusted: sizes are checked before memory is taken, and pickles are read
by a reader that can make arrays only.

The modules, in the order of the work: `folders` (where the files are), `idx`, `numpy_pickle` and `mosaic` (formats),
`mnist`, `cifar` and `digits` (data sets), `splits`, `statistics`, `loading`, `augment`, `batches`.
"""

from mrfq.nn.images.augment import Augment
from mrfq.nn.images.batches import ImageBatches
from mrfq.nn.images.loading import DATASETS, load_images
from mrfq.nn.images.splits import ImageData, Split
from mrfq.nn.images.statistics import IMAGENET

__all__ = ["DATASETS", "IMAGENET", "Augment", "ImageBatches", "ImageData", "Split", "load_images"]
