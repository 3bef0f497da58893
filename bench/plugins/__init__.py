"""What a defense or an attack is, how it registers, and how a user's file is loaded.

May import data, files and core; attacks and defenses themselves see it as bench.attack and bench.defense.
"""

from bench.plugins.contract import Context, Defense, InputGradient, adversarial_step, out_of_reach, projected_step
from bench.plugins.declared import BROKEN, Kind, is_ours
from bench.plugins.keywords import check_numbers, configure, hints, parameters, read_value
from bench.plugins.named_files import DataFile, WeightsFile, annotations_of, file_digests
from bench.plugins.provenance import code_digest
from bench.plugins.registry import (
    Attack,
    attack,
    attack_names,
    broken_names,
    code,
    defense,
    defense_names,
    get_attack,
    get_defense,
    load_plugin,
    loaded_plugins,
    make_defense,
)
from bench.plugins.schedules import budget_factor, learning_rate, rising_budget
from bench.plugins.userfile import culprit, import_file, place, told, user_code, was_run
