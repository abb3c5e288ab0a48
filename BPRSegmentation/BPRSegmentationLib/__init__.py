"""What touches the scene and nothing else: nodes -> job, result -> nodes, the child process, missing packages.

The networks live in the package ``bpr`` and run in a child process; nothing here imports torch, and only
``packages`` and the module file know the Slicer application. Everything else takes the scene as an argument, so that
it works on plain MRML (the ``slicer-core`` wheel) as well.
"""
