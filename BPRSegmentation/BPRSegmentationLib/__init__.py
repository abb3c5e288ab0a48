"""From nodes to a job, from a result to nodes, and the panel in between; nothing here computes or imports torch.

    *_section.py      one part of the panel each: choices, models, run, results, scores, batch
    run_control.py    what is going on: starts, polls and ends ``run.py`` (one volume) and ``batch.py`` (many cases)
    export.py         a volume node as a job        process.py, progress.py    the child process and what it says
    results.py        a result folder as nodes, found again in a scene; *_nodes.py, placement.py make and place them
    to_do.py          what was found, as rows       score_place.py             from a place to its score and back
    saving.py, dicom_seg.py, crops.py               files and cropped volumes
    views.py, plot_dock.py, hand_over.py, shortcuts.py, packages.py, samples.py    what asks the application

Only the sections, run_control, plot_dock, hand_over, shortcuts, samples and packages know the application. Everything
else takes the scene as an argument, so that it works on plain MRML (the ``slicer-core`` wheel) as well.
"""
