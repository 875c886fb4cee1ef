#!/bin/bash
# The twelve acceptance checks of searches, tournaments and workers: a line each, with figures.
#
#     scripts/check_search.sh              all of them: about 20 minutes on two cores
#     scripts/check_search.sh 1 3 7        some of them
#
# PYTHON      the interpreter (default: python)
# OPTUNA4     a directory with Optuna 4, for check 2
# ALGOPERF    the directory with AlgoPerf's published results, for check 11
# A check whose means are not here is skipped. Of one that fails the end of its log is shown.
set -u
SELF=$(realpath "$0")
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python}
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
SMALL="data=digits model=linear trainer.max_steps=30 logger=none"
SPAN='optimizer.lr=tag(log,interval(1e-4,1))'

start_train() { exec "$PYTHON" "$ROOT/train.py" -m $SMALL "$@" >> log 2>&1; }
start_worker() { exec "$PYTHON" -m lit_optim worker "$@" >> log 2>&1; }
train() { "$PYTHON" "$ROOT/train.py" -m $SMALL "$@" >> log 2>&1; }
tests() { (cd "$ROOT" && set -o pipefail && "$PYTHON" -m pytest -p no:cacheprovider "$@" | grep -E "[0-9]+ (passed|failed)" | tail -n 1); }
fail() { echo "$*" >&2; return 1; }

# examine DIR 'expression': of its trials, a list of Optuna's for each study, by the study's name;
# STORAGE is where they are, if not in the directory
examine() {
  "$PYTHON" - "$@" <<'PYTHON'
import json, math, os, sys
from pathlib import Path
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
where, expression, *rest = sys.argv[1:]
def trials(directory):
    url = os.environ.get("STORAGE", "").removeprefix("search.storage=")
    if url:
        backend = optuna.storages.journal.JournalFileBackend(url.removeprefix("journal:"))
        storage = optuna.storages.JournalStorage(backend)
    else:
        storage = optuna.storages.RDBStorage(f"sqlite:///{directory}/study.db")
    return {s.study_name: optuna.load_study(study_name=s.study_name, storage=storage).trials
            for s in storage.get_all_studies()}
studies = trials(where)
every = [trial for found in studies.values() for trial in found]
states = {name: [t.state.name for t in found] for name, found in studies.items()}
complete = sum(t.state.name == "COMPLETE" for t in every)
params = {name: [t.params for t in found] for name, found in studies.items()}
results = [json.loads(p.read_text()) for p in sorted(Path(where).glob("**/result.json"))]
told = eval(expression)
ok, text = told if isinstance(told, tuple) else (told, "")
print(text)
sys.exit(not ok)
PYTHON
}

check_1() {  # a study for each value with commas, each with a space of its own
  mkdir -p conf/search
  cat > conf/search/mine.yaml <<'YAML'
# A space for each optimizer
defaults: [default]
space:
  optimizer.lr: auto
  by_optimizer:
    sgd: {momentum: {interval: [0, 0.99]}}
    adamw: {betas.1: {choice: [0.95, 0.99, 0.999]}}
YAML
  train --config-dir conf search=mine optimizer=adamw,sgd search.trials=6 n_jobs=2 \
    hydra.sweep.dir=one || return 1
  [ -s one/report.html ] || fail "no report" || return 1
  examine one '(sorted(map(len, studies.values())) == [6, 6] and complete == 12
    and all(set(p) == ({"optimizer.lr", "optimizer.betas.1"} if "adamw" in n
      else {"optimizer.lr", "optimizer.momentum"}) for n, found in params.items() for p in found),
    f"{len(studies)} studies, {complete} trials complete")'
}

check_2() {  # Optuna 4 and 5 propose the same
  [ -n "${OPTUNA4:-}" ] || return 77
  local sampler count=0
  for sampler in random tpe qmc gp; do
    for version in 4 5; do
      ( [ $version = 4 ] && export PYTHONPATH=$OPTUNA4:$PYTHONPATH
        train "$SPAN" 'optimizer.weight_decay=choice(0,0.1)' search.trials=8 \
          search.sampler=$sampler hydra.sweep.dir=$sampler$version ) || return 1
    done
    first=$(examine ${sampler}4 '(True, params)') && second=$(examine ${sampler}5 '(True, params)')
    [ "$first" = "$second" ] || fail "$sampler: $first against $second" || return 1
    count=$((count + 8))
  done
  echo "$count proposals of 4 samplers are equal"
}

# count_ended DIR: the runs that have ended; running DIR: the processes of those that have not
count_ended() { find "$1" -name result.json 2>/dev/null | wc -l; }
running() {
  local lock process
  for lock in "$1"/trial=*/seed=*/.lock; do
    [ -e "$lock" ] && [ ! -e "${lock%.lock}result.json" ] || continue
    process=$(grep -o '^[0-9]*' "$lock") && kill -0 "$process" 2>/dev/null && echo "$process"
  done
}

check_3() {  # killed with -9 and resumed, a search proposes what it would have
  train "$SPAN" search.trials=14 search.sampler=tpe hydra.sweep.dir=whole || return 1
  local kills=0 both=0 target process
  start_train "$SPAN" search.trials=14 search.sampler=tpe hydra.sweep.dir=cut & process=$!
  for target in 1 4 7 10; do  # in the middle of trials; every other time the run as well
    until [ "$(count_ended cut)" -ge $target ] && [ -n "$(running cut)" ]; do
      kill -0 $process 2>/dev/null || fail "it ended before it had $target trials" || return 1
      sleep 0.2
    done
    sleep "0.$((RANDOM % 10))"
    if [ $((kills % 2)) = 1 ]; then
      kill -9 $process $(running cut) && both=$((both + 1))
    else
      kill -9 $process || return 1
    fi
    kills=$((kills + 1))
    wait $process
    start_train resume=cut & process=$!
  done
  wait $process || return 1
  [ $both -gt 0 ] || fail "$kills kills, $both of a run too" || return 1
  [ "$(examine whole '(True, params)')" = "$(examine cut '(True, params)')" ] \
    || fail "$(examine whole '(True, params)') against $(examine cut '(True, params)')" || return 1
  examine cut "(complete == len(every) == 14,
    f'killed after 1, 4, 7 and 10 of 14 trials, $both times with the run; the same 14')"
}

check_4() {  # a mistake is one line with code 2, and nothing of this needs Optuna
  mkdir -p none/optuna && echo 'raise SystemExit("Optuna was imported")' > none/optuna/__init__.py
  local count=0 line out code
  while read -r line; do
    out=$(PYTHONPATH=$PWD/none:$PYTHONPATH eval "\"$PYTHON\" \"$ROOT/train.py\" $line" 2>&1)
    code=$?
    [ $code = 2 ] && [ "$(wc -l <<<"$out")" = 1 ] && [[ $out == lit-optim:* ]] \
      || fail "$line: code $code: $out" || return 1
    count=$((count + 1))
  done <<'LINES'
'optimizer.lr=interval(1e-4,1e-1)'
optimizer.lr=auto
search.trials=5
-m search.trials=5
-m optimizer.lr=auto search.trials=0
-m optimizer.lr=auto search.trials=1.5
-m optimizer.lr=auto search.trials=1000000000
-m optimizer.lr=auto search.trials=5 search.sampler=tpee
-m optimizer.lr=auto search.trials=5 search.pruner=medium
-m optimizer.lr=auto search.trials=5 search.timeout=0
-m optimizer.lr=auto search.trials=5 search.seeds=[]
-m optimizer.lr=auto search.trials=5 search.seeds=[1,1]
-m optimizer.lr=auto search.trials=5 seed=0,1
-m optimizer.lr=auto search.trials=5 search.storage=mongo://host/x
-m optimizer.lr=auto optimizer.momentum=auto optimizer=sgd search.trials=5
-m 'optimizer.lr=interval(1,0.1)' search.trials=5
-m 'optimizer.lr=interval(0.1,0.1)' search.trials=5
-m 'optimizer.lr=tag(log,interval(0,0.1))' search.trials=5
-m 'optimizer.lr=interval(-1,0.1)' search.trials=5
-m 'optimizer.weight_decay=choice(0,0)' search.trials=5
-m 'optimizer.lrr=interval(0.1,1)' search.trials=5
-m optimizer.lr=auto search.trials=5 tournament=defalt
LINES
  for line in --help "$SMALL trainer.max_steps=2" "-m $SMALL trainer.max_steps=2 seed=0,1"; do
    PYTHONPATH=$PWD/none:$PYTHONPATH "$PYTHON" "$ROOT/train.py" $line >> log 2>&1 || return 1
  done
  echo "$count mistakes"
}

check_5() {  # what diverges is told as a finite worst value, and avoided
  train optimizer=sgd 'optimizer.lr=tag(log,interval(1e-3,1e80))' search.trials=30 \
    search.sampler=tpe hydra.sweep.dir=cliff || return 1
  examine cliff '(lambda bad: (complete == 30 and all(math.isfinite(t.value) for t in every)
    and 0 < sum(bad[:10]) and sum(bad[10:]) / 20 < 0.7, f"{sum(bad[:10])} of the first 10 proposals "
    f"diverge, {sum(bad[10:])} of the next 20"))([t.user_attrs.get("kind") == "diverged" for t in every])'
}

check_6() {  # a trial is the mean of its seeds; pruned runs end with code 0, also those of two ranks
  train "$SPAN" search.trials=10 'search.seeds=[0,1]' search.pruner=median search.sampler=random \
    trainer.max_steps=200 trainer.val_check_interval=5 trainer.check_val_every_n_epoch=null \
    hydra.sweep.dir=pruned || return 1
  examine pruned '(lambda cut: (0 < cut < 9 and complete + cut == 10
    and sum(bool(r.get("pruned")) for r in results) == cut,
    f"{cut} of 10 trials pruned"))(sum(t.state.name == "PRUNED" for t in every))' || return 1
  train "$SPAN" search.trials=6 search.pruner=median search.sampler=random trainer=ddp_cpu \
    trainer.devices=2 trainer.max_steps=200 trainer.val_check_interval=5 \
    trainer.check_val_every_n_epoch=null hydra.sweep.dir=ranks || return 1
  examine ranks '(lambda cut: (0 < cut and complete + cut == 6,
    f"of two ranks {cut} of 6"))(sum(t.state.name == "PRUNED" for t in every))'
}

# kill_workers DIR ARGUMENTS: a search of 40 trials with 4 workers, of which 6 at random are killed
kill_workers() {
  local where=$1 worker= kills=0 pids=() watch
  shift
  start_train "$SPAN" search.trials=40 search.sampler=random hydra.sweep.dir="$where" "$@" & pids=($!)
  until [ "$(count_ended "$where")" -gt 0 ]; do
    kill -0 ${pids[0]} 2>/dev/null || fail "the search did not begin" || return 1
    sleep 0.2
  done
  # a run that ends a second time writes its result into another file
  (while sleep 0.3; do stat -c '%n %i' "$where"/trial=*/seed=*/result.json; done > "$where.seen") \
    2> /dev/null & watch=$!
  for worker in 1 2 3; do
    start_worker "$where" "$@" & pids+=($!)
  done
  while [ $kills -lt 6 ]; do
    sleep "$(shuf -i 1-4 -n 1)"
    worker=$((RANDOM % 4))
    if kill -9 ${pids[$worker]} 2>/dev/null; then
      kills=$((kills + 1))
    elif [ "$(count_ended "$where")" -ge 40 ]; then
      break
    fi
    wait ${pids[$worker]}
    start_worker "$where" "$@" & pids[$worker]=$!
  done
  wait "${pids[@]}"
  train resume="$where" "$@" || return 1  # the parent may have been one of those
  sleep 1
  kill $watch
  [ $kills = 6 ] || fail "only $kills kills" || return 1
  [ "$(sort -u "$where.seen" | wc -l)" = 40 ] || fail "runs ended twice" || return 1
  STORAGE=${1:-} examine "$where" "(complete == len(every) == len(results) == 40
    and not list(Path(where).glob('**/.before')), f'$where: {complete} of 40 complete, once each, '
    'after $kills kills')"
}

check_7() {  # 4 workers, of which 6 are killed, end all trials, each once: SQLite, a journal
  kill_workers sqlite && kill_workers journal "search.storage=journal:$PWD/study.log"
}

check_8() {  # the same with servers that are killed as well: PostgreSQL, Optuna's proxy
  tests -m "slow or not slow" tests/search/test_workers.py \
    -k "(six_kills or storage_is_killed) and (grpc or postgres)"
}

check_9() {  # other launchers only start workers
  local launcher
  for launcher in submitit_local joblib; do
    train "$SPAN" search.trials=6 n_jobs=2 hydra/launcher=$launcher \
      hydra.sweep.dir=$launcher || return 1
    examine $launcher '(complete == 6 and len(results) == 6, "")' > /dev/null || return 1
  done
  echo "6 trials by submitit_local, 6 by joblib"
}

check_10() {  # a tournament: equal trials, fresh seeds, the untuned; one optimizer under two names is a tie
  mkdir -p conf/optimizer
  printf '# AdamW under another name\ndefaults: [adamw]\n' > conf/optimizer/twin.yaml
  COLUMNS=200 train --config-dir conf tournament=default optimizer=adamw,twin,sgd data=digits \
    trainer.max_steps=30,60 tournament.trials=4 n_jobs=2 hydra.sweep.dir=cup || return 1
  [ -s cup/report.html ] || fail "no report" || return 1
  examine cup '(sorted(map(len, studies.values())) == [4] * 6 and complete == 24
    and len(results) == 24 + 6 * 5 * 2, f"{len(studies)} studies of 4 trials, 30 runs at the best, "
    "30 untuned")' || return 1
  "$PYTHON" - log <<'PYTHON' || fail "the ranks are wrong" || return 1
import re, sys
found = re.findall(r"^ (adamw|twin|sgd) .*?±\S+ +5 +(\d=?) .* 4 *$", open(sys.argv[1]).read(), re.M)
tasks = [dict(found[:3]), dict(found[3:])]
print("ranks " + ", ".join(" ".join(f"{k} {v}" for k, v in task.items()) for task in tasks))
sys.exit(not all(len(task) == 3 and task["adamw"] == task["twin"] for task in tasks))
PYTHON
  tests tests/tournament/test_fairness.py -k several_names
}

check_11() {  # the profile is AlgoPerf's
  [ -n "${ALGOPERF:-}" ] || return 77
  (set -o pipefail; "$PYTHON" "$ROOT/scripts/check_profile.py" "$ALGOPERF" | tail -n 1)
}

check_12() {  # a search costs at most 5 % more than a sweep of the same runs
  "$PYTHON" "$ROOT/scripts/bench_search.py" --rounds 3 > bench.txt || return 1
  cat bench.txt >&2
  "$PYTHON" - bench.txt <<'PYTHON'
import re, sys
wall, cpu = map(float, re.findall(r"([+-][\d.]+) %", open(sys.argv[1]).read()))
print(f"{wall:+} % of time, {cpu:+} % of CPU")
sys.exit(max(wall, cpu) > 5)
PYTHON
}

failed=0 counts=()
for number in ${*:-1 2 3 4 5 6 7 8 9 10 11 12}; do
  title=$(sed -n "s/^check_$number() {  # //p" "$SELF")
  mkdir -p "$WORK/$number" && cd "$WORK/$number" || exit 1
  start=$SECONDS
  figures=$(check_$number 2>errors)
  case $? in
    0) word=passed ;;
    77) word=skipped ;;
    *) word=failed failed=1 ;;
  esac
  counts+=($word)
  echo "$number $word: $title: ${figures//$'\n'/; } ($((SECONDS - start)) s)"
  [ $word = failed ] && tail -n 15 errors log 2>/dev/null | sed 's/^/    /'
done
printf '%s\n' "${counts[@]}" | sort | uniq -c | awk '{printf "%s%s %s", (NR > 1 ? ", " : ""), $1, $2} END {print ""}'
exit $failed
