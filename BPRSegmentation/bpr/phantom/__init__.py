"""A CT made by arithmetic: a person whose landmarks and label map are known exactly.

``make_phantom`` draws analytic shapes (ellipsoids, swept columns, tubes) on any grid: ``plan`` says how tall and wide
the person is and where the landmarks lie, ``canvas`` paints shapes, ``envelope``, ``skeleton``, ``pelvis``, ``head``,
``thorax`` and ``abdomen`` are the anatomy, ``scan`` is the scanner (grid, table, noise, orientation).
"""

from bpr.phantom.scan import Phantom, make_phantom

__all__ = ["Phantom", "make_phantom"]
