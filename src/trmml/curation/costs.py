"""What a question costs a person, in seconds. All five are assumed, none was measured.

A block of one category costs a switch, a glance at each image, and an exception for each image
whose mark is wrong. A whole image costs a look, its list of categories, and the same exceptions.
The list's price is that of a person who ticks what an image shows among 242 words in ten seconds.
"""

SWITCH = 1.2
GLANCE = 0.35
EXCEPTION = 0.9
LOOK = 2.0
ENTRY = 0.03  # a category of a list


def block_seconds(blocks: int, images: int, exceptions: int) -> float:
    """Seconds for blocks with so many images and wrong marks in all.

    Example:
        >>> block_seconds(1, 20, 2)
        10.0
    """
    return SWITCH * blocks + GLANCE * images + EXCEPTION * exceptions


def image_seconds(images: int, categories: int, exceptions: int) -> float:
    """Seconds for whole images with a list of so many categories and so many wrong marks in all.

    Example:
        >>> round(image_seconds(1, 242, 1), 2)
        10.16
    """
    return (LOOK + ENTRY * categories) * images + EXCEPTION * exceptions
