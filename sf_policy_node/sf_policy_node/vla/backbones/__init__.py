"""Models that people fine-tune: any transformers image-text-to-text model (``hf``) and pi0
(``pi0``).

Both are used as ``nano`` is: ``context(images, state, text)`` runs the trunk once, ``head`` makes a
chunk of it, and ``visual_places()`` says where Spatial Forcing finds the visual tokens.
"""
