"""A card against its files, its model and its data; runs no attack.

May import models, results and what lies below.
"""

from bench.verify.cards import verify_card, verify_cards
from bench.verify.consistency import contradictions, proved
from bench.verify.loading import Given
from bench.verify.lowest import Proven, lowest_of, read_lowest
