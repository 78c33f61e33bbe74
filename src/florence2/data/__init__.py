"""Training data: records, readers and writers of the common formats, targets, and the check before training.

from florence2.data import check, pairs, read, write
records = read("coco/annotations/instances_val2017.json")
for target in pairs(next(iter(records)), "<OD>"): ...
"""

from florence2.data.check import Problem as Problem
from florence2.data.check import Report as Report
from florence2.data.check import check as check
from florence2.data.formats import FORMATS as FORMATS
from florence2.data.formats import DataSet as DataSet
from florence2.data.formats import Written as Written
from florence2.data.formats import read as read
from florence2.data.formats import write as write
from florence2.data.records import Pair as Pair
from florence2.data.records import Phrase as Phrase
from florence2.data.records import Place as Place
from florence2.data.records import Question as Question
from florence2.data.records import Record as Record
from florence2.data.records import Reference as Reference
from florence2.data.records import Thing as Thing
from florence2.data.records import Words as Words
from florence2.data.sheet import contact_sheet as contact_sheet
from florence2.data.targets import Choices as Choices
from florence2.data.targets import Target as Target
from florence2.data.targets import pairs as pairs
