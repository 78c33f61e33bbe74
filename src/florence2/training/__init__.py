"""Training: recipes, and the trainer that carries them out.

from florence2.training import Recipe, train
train(Recipe.load("recipes/finetune-detection.toml"))
"""

from florence2.training.events import Finished as Finished
from florence2.training.events import Watcher as Watcher
from florence2.training.recipe import Recipe as Recipe
from florence2.training.trainer import train as train
