"""How the sample was made: python Testing/make_sample.py IN.nii.gz OUT.nii.gz (TCIA, C3N-00249, CC BY 3.0)."""

import sys

import SimpleITK as sitk

from bpr.volume import canonical, read_volume

volume = read_volume(sys.argv[1])
small = sitk.Cast(sitk.Round(canonical(volume.image, (3.0, 3.0, 3.0), -1024)), sitk.sitkInt16)
sitk.WriteImage(small, sys.argv[2], useCompression=True, compressionLevel=9)
