# The driver had nothing to complain of: no timeout, no abort, no I/O error.
dmesg | grep -iE 'nvme.*(timeout|abort|error|fail|reset)|I/O error' |
    grep -vE 'resetting controller|Reset Controller' >$out
check quiet.kernel_log '' "$(head -n 5 $out)"
