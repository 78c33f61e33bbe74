"""Composed scenes: pictures made on the spot whose boxes, outlines, texts, counts and relations are known exactly.

    scenes = Scenes(SceneSettings(seed=7, size=(320, 320)))
    record, picture = scenes[12]        the same in every process, in any order

The way of a scene: a ground is drawn (``grounds``), texts find room on it (``texts``), then objects do (drawn
``figures``, or ``cutouts`` of photos); what one hides of another is taken off its outline (``sprites``). What is then
known (``facts``) is told in words: ``captions``, ``references``, ``questions``.
"""

from florence2.data.scenes.compose import Scenes as Scenes
from florence2.data.scenes.settings import SceneSettings as SceneSettings
