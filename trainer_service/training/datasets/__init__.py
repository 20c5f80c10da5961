"""Images to train on, from a file's bytes to the three splits of a child.

decoding an image file's pixels, as a viewer shows them
files    images that stay files until they are read
listing  the entries of a folder: which are images, and what the others are
values   a split, a data set as it is stored, and as a child trains on it
digits cifar fer2013 affectnet folder npz    a layout each: how it is read
catalog  what each data set is, its terms, where to get it and where to put it
draws    classes, missing splits, subset and label noise, by seed
duplicates   the same pixels twice, within and across splits
pixels   all images of a split, a few at a time: statistics and sizes
memory   what is held in memory, and what stays on the disk
load     all of these in their order
checks   what a careful user should know about a data set

Nothing is ever replaced by made-up data: what is not there is an error that says where to put it.
"""

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.load import load_images
from trainer_service.training.datasets.values import Images, Split

__all__ = ["DataError", "ImageFiles", "Images", "Split", "load_images"]
