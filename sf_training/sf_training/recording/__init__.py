"""Record episodes to rosbags, judge their health, edit and recover them.

``*_node.py`` are the programs. ``session/`` runs the recorder, ``writer/`` writes files,
``screen/`` reads keys and shows the status, ``edit/`` and ``recover/`` work on files afterwards.
``topics``, ``messages`` and ``labels`` are shared by all of them and by ``sf_training.data``.
"""
