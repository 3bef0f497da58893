"""A card against its files, its model and its data; runs no attack.

May import models, results and what lies below.
"""

from bench.verify.cards import Verified, verify_card, verify_cards
from bench.verify.consistency import ATTEMPTS, FALLS, Check, contradictions, proved, read_evidence
from bench.verify.loading import Given, NotHere, data_of, load_data, load_model
from bench.verify.lowest import Proven, lowest_of, read_lowest
