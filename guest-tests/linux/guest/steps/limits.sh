# The block layer shows each namespace's sizes as configured, in the way this kernel reads them.
limits() { # NSID KEY=VALUE...
    nsid=$1
    device=$(ns "$1")
    shift
    wrong=
    for pair; do
        key=${pair%%=*}
        file=queue/$key
        [ "$key" = size ] && file=size
        found=$(cat "/sys/block/$device/$file" 2>/dev/null)
        [ "$found" = "${pair#*=}" ] || wrong="$wrong$key is ${found:-missing}, not ${pair#*=}; "
    done
    if [ -z "$wrong" ]; then
        pass "limits.ns$nsid"
    else
        fail "limits.ns$nsid" "$wrong"
    fi
}
. /job/expected.sh
