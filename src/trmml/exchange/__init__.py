"""What is carried to other software and back: keywords beside images, files of annotation tools."""
