"""Many scans: found in folders, DICOM trees and lists, run by Dask's workers, told in one table and one page.

    inputs.py   which scans there are      scan.py     one scan in a worker     cluster.py  Dask, or one after another
    table.py    one row per scan           summary.py  the page over all        commands.py `bpr batch`

The folder of a batch: ``scans/<id>/`` (a result folder each), ``failed/<id>.json`` (why there is none), ``batch.json``
(what was asked for) and, derived from these, ``table.csv``, ``table.parquet`` and ``summary.html``.
"""
