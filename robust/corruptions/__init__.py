"""Named damage to sound and sight in five severities; `robust noise` scores victims under it.

Importing the modules below registers what they hold, in the order of the categories.
"""

from robust.corruptions import noises as noises  # isort: skip
from robust.corruptions import rooms as rooms  # isort: skip
from robust.corruptions import devices as devices  # isort: skip
from robust.corruptions import codecs as codecs  # isort: skip
from robust.corruptions import spectral as spectral  # isort: skip
from robust.corruptions import temporal as temporal  # isort: skip
from robust.corruptions import video as video  # isort: skip
from robust.corruptions import audiovisual as audiovisual  # isort: skip
from robust.corruptions.base import CATEGORIES, CORRUPTIONS, SEVERITIES, Corruption, find_corruption, suited

__all__ = ["CATEGORIES", "CORRUPTIONS", "SEVERITIES", "Corruption", "find_corruption", "suited"]
