"""What an evaluation leaves: card, records and archive, how they are written and read.

May import plans and what lies below.
"""

from bench.results.archive import LARGEST, read_archive, read_examples, read_records, read_tensors, write_archive, write_tensors
from bench.results.card import CLASSES, MOST_MEASURED, SCHEMA, Addition, Card, DataInfo, FileInfo, ModelInfo, Threat, read_card
from bench.results.collapse import GAP, collapsed, fooled, guessed
from bench.results.eight_bit import rounded, survive
from bench.results.headlines import headline, sentences
from bench.results.in_short import in_short, is_of, measured_beside, measures_folder, with_measured
from bench.results.measurement import DOCUMENT_BYTES, Arrays, Measurement, read_measurement
from bench.results.outcomes import METRICS, Flags, Outcomes, fell_to, find_cards, outcomes_of, read_outcomes
from bench.results.places import ADDED, MEASURES, WATCHED, folder_name, section, unlisted
from bench.results.replay import check_outcomes, check_samples, clean_rows, suffix
from bench.results.schema import (
    CONSTANT,
    MOST,
    ORDER,
    STAGES,
    TOGETHER,
    Answers,
    AttackResult,
    Certified,
    ClassResult,
    Count,
    CurvePoint,
    Diagnosis,
    Finding,
    Grid,
    GridPoint,
    Measured,
    Record,
    RestartPoint,
    Round,
    Sentence,
    Verdict,
)
