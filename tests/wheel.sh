#!/usr/bin/env bash
# The built wheel, in an empty environment, outside the checkout: `gauntlet demo` must work there.
set -euo pipefail
checkout=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m build --quiet --wheel --outdir "$folder/dist" .
rm -rf build
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/dist/*.whl
mkdir "$folder/elsewhere"
cd "$folder/elsewhere"
# Folders of a user's own research repository must not get in the way.
mkdir attacks defenses
"$folder/venv/bin/gauntlet" demo --quiet | tee demo.txt
for defense in standard fast_at noise_fgsm clean_warmup periodic_budget pgd_at; do grep -q " $defense " demo.txt; done
for form in md csv tex html; do test -s "results/demo/leaderboard.$form"; done
test "$(find results/demo -name card.json | wc -l)" -eq 6
# Pages, style and documents are in the wheel.
"$folder/venv/bin/gauntlet" report results/demo --out pages --quiet
for page in index.html docs/glossary.html assets/board.js; do test -s "pages/$page"; done
cp -r results/demo before
"$folder/venv/bin/gauntlet" leaderboard results/demo >/dev/null
for form in md csv tex html; do cmp "before/leaderboard.$form" "results/demo/leaderboard.$form"; done
"$folder/venv/bin/gauntlet" verify results/demo --quiet | tee verify.txt
test "$(grep -c "holds$" verify.txt)" -eq 6
if "$folder/venv/bin/python" -c 'import attacks, sys; sys.exit(not hasattr(attacks, "pgd"))' 2>/dev/null; then
    echo "the wheel put a top-level package called attacks beside bench" >&2
    exit 1
fi
cd "$checkout"
echo "wheel: installed outside the checkout, demo ran, its rows hold, leaderboard is the same twice"
