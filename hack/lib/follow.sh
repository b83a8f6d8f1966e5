# shellcheck shell=bash
# shellcheck disable=SC2034 # the callers of follow read what is set here
# Prints a task's loop, one line for each change of its status.

readonly STATUS_FIELDS=(metadata.generation status.observedGeneration status.phase status.iterations status.message
  status.active.iteration 'status.history[0].iteration' 'status.history[0].outcome' 'status.history[0].exitCode'
  'status.history[0].changed' 'status.history[0].filesChanged' 'status.history[0].gate.ready'
  'status.history[0].gate.reason' 'status.history[0].error')

# kubectl turns tabs into spaces here, so fields end with a character that no text contains.
readonly FIELD_END=$'\x1f'

status_template() {
  printf "{.%s}$FIELD_END" "${STATUS_FIELDS[@]}"
  printf '{"\\n"}'
}

# read_status LINE : sets a variable for each field of a line that the template made.
read_status() {
  local fields
  IFS=$FIELD_END read -ra fields <<<"$1"
  generation=${fields[0]} observed=${fields[1]} phase=${fields[2]} iterations=${fields[3]} message=${fields[4]}
  active=${fields[5]} last=${fields[6]} outcome=${fields[7]} code=${fields[8]} changed=${fields[9]}
  files=${fields[10]} ready=${fields[11]} reason=${fields[12]} error=${fields[13]}
}

# Prints in one line how the last iteration ended.
last_iteration() {
  local text="iteration $last: "
  if [ "$outcome" = Exited ]; then text+="exit code ${code:-?}"; else text+=$outcome; fi
  case $changed in
    Changed) text+=", ${files:-some} files changed" ;;
    Unchanged) text+=", nothing changed" ;;
    *) text+=", change unknown" ;;
  esac
  case $ready in
    true) text+=", ready" ;;
    false) text+=", not ready" ;;
    *) text+=", no completion gate" ;;
  esac
  echo "$text${reason:+: $reason}${error:+ ($error)}"
}

# show_status : prints what is new since the last call for the same task.
show_status() {
  if [ "${iterations:-0}" -gt "$shown_iterations" ]; then
    shown_iterations=$iterations
    print_line '' "$(last_iteration)"
  fi
  if [ "$message" != "$shown_message" ]; then
    shown_message=$message
    print_line "$phase" "$message"
  fi
}

print_line() { printf '%6s  %-22s %s\n' "$((SECONDS - follow_since)) s" "$1" "$2"; }

is_stop() { [[ $1 =~ ^(IterationLimitReached|CircuitOpen|Failed|Succeeded)$ ]]; }

# follow TASK SECONDS PHASE : prints the task's status until it is in PHASE. Fails if the task stops in another phase,
# or when the time is up; follow_problem then says why. Sets first_active to the first active iteration that was
# observed.
follow() {
  local deadline=$((SECONDS + $2)) watch watcher answer=2
  local generation observed phase='' iterations message active last outcome code changed files ready reason error
  follow_since=$SECONDS first_active='' follow_problem=''
  if [ "$1" != "${followed:-}" ]; then followed=$1 shown_iterations=0 shown_message=''; fi
  # If a watch ends by itself, it is started again.
  while [ "$answer" = 2 ] && [ "$SECONDS" -lt "$deadline" ]; do
    exec {watch}< <(exec kubectl --namespace "$NAMESPACE" get agt "$1" --watch --output jsonpath="$(status_template)")
    watcher=$!
    follow_watch "$3" && answer=0 || answer=$?
    kill "$watcher" 2>/dev/null || true
    exec {watch}<&-
    if [ "$answer" = 2 ] && [ "$SECONDS" -lt "$deadline" ]; then sleep 0.2; fi
  done
  case $answer in
    1) follow_problem="task $1 is $phase, not $3" ;;
    2) follow_problem="task $1 is ${phase:-without a phase} after $2 s, not $3" ;;
  esac
  return "$answer"
}

# follow_watch PHASE : returns 0 when it is reached, 1 at another stop, 2 if the watch ended or the time is up.
follow_watch() {
  local line left
  while left=$((deadline - SECONDS)) && [ "$left" -gt 0 ] && read -r -t "$left" -u "$watch" line; do
    read_status "$line"
    if [ -z "$phase" ] || [ "$observed" != "$generation" ]; then continue; fi
    show_status
    first_active=${first_active:-$active}
    if [ "$phase" = "$1" ]; then return 0; fi
    if is_stop "$phase"; then return 1; fi
  done
  return 2
}
