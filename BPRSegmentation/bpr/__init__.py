"""Body part regression and localized segmentation of CT: the backend of the BodyPartRegression extension.

The data goes one way: volume -> score curve -> regions -> localized masks -> one segmentation -> files. Nothing here
imports slicer, vtk or qt; torch and monai are imported only by the torch engine and by training.
"""

__version__ = "0.1.0"
