# What steps report with. busybox prefers its own programs to those of the path: where a step wants
# another's of the same name, it says where that is. Each check is a line of TAP: its name, the time since the last one, and why
# it failed.

count=0
last=0

# Microseconds since the kernel's start, in steps of 10,000.
now() {
    read -r up _ </proc/uptime
    hundredths=${up#*.}
    echo $((${up%.*} * 1000000 + ${hundredths#0} * 10000))
}

pass() { # NAME
    count=$((count + 1))
    time=$(now)
    echo "ok $count - $1 ($((time - last)) us)"
    last=$time
}

fail() { # NAME MESSAGE
    count=$((count + 1))
    time=$(now)
    echo "not ok $count - $1 ($((time - last)) us)"
    last=$time
    message=$(printf '%s' "$2" | tr '"\\\n\r\t' "'/|  ")
    printf '  ---\n  message: "%s"\n  ...\n' "$message"
}

skip() { # NAME REASON
    count=$((count + 1))
    echo "ok $count - $1 (0 us) # SKIP $2"
}

# Passes if both are the same.
check() { # NAME EXPECTED FOUND
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "expected '$2', found '$3'"
    fi
}

# The end of what the last command printed, in few words.
said() {
    grep -v ';fio-' $out | tail -n 12 | cut -c 1-400
}

# Passes if a command succeeds. What it printed is left in $out.
out=/run/out
try() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >$out 2>&1; then
        pass "$name"
    else
        fail "$name" "ended with $?: $(said)"
    fi
}

# Passes if a command fails and says why in these words.
refused() { # NAME WORDS COMMAND...
    name=$1
    words=$2
    shift 2
    if "$@" >$out 2>&1; then
        fail "$name" "it succeeded"
    elif grep -q "$words" $out; then
        pass "$name"
    else
        fail "$name" "it failed, but not with '$words': $(said)"
    fi
}

# Waits, 10 s at most, until a command succeeds.
await() { # COMMAND...
    for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        "$@" >/dev/null 2>&1 && return 0
        usleep 500000
    done
    return 1
}

# The number that follows a field's name in what nvme-cli prints.
field() { # NAME
    awk -F: -v name="$1" '{ key = $1; gsub(/[ \t]/, "", key) }
        key == name { gsub(/[ \t,]/, "", $2); print $2; exit }' $out
}

# The block device of a namespace. The kernel looks at namespaces side by side and numbers their
# devices as they come.
ns() { # NSID [CONTROLLER]
    for path in /sys/block/${2:-nvme0}n*; do
        if [ "$(cat "$path/nsid")" = "$1" ]; then
            echo "${path##*/}"
            return
        fi
    done
    echo "no-such-namespace-$1"
}

end() {
    echo "1..$count"
}
