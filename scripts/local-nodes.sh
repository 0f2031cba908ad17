# Sourced by scripts that run a cluster on this machine: a folder of their own, and no process that stays behind.

# begin_work NAME: makes the folder $work; whatever ends the script ends the nodes whose ids stand in $work/pids, unless $keep is
# set and it went well. Set $status to 0 once it did.
begin_work() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-$1.XXXXXX")
    status=1 keep=""
    trap end_work EXIT
    trap 'status=130; exit 130' INT TERM HUP
}

is_ours() {
    if [ -r /proc/self/cmdline ]; then grep -qaF "$work" "/proc/$1/cmdline" 2>/dev/null; return; fi
    ps -p "$1" -o args= 2>/dev/null | grep -qF "$work"
}

# The program that started them ends them itself; this is for one that was killed before it could. A node that is paused can only
# be killed.
end_nodes() {
    local pid
    [ -f "$work/pids" ] || return 0
    while read -r pid; do
        if [ -n "$pid" ] && is_ours "$pid"; then kill -KILL "$pid" || true; fi
    done <"$work/pids"
}

end_work() {
    if [ -n "$keep" ] && [ "$status" = 0 ]; then return; fi
    end_nodes
    if [ "$status" = 0 ] || [ "$status" = 130 ]; then rm -rf "$work"; else say "the nodes' logs are in $work"; fi
}
