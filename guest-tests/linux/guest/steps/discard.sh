# What is discarded reads as zeroes.
device=/dev/$(ns 3)
try discard.fill dd if=/dev/urandom of=$device bs=64k count=16 oflag=direct
dd if=$device of=/run/before bs=64k count=16 iflag=direct 2>/dev/null
try discard.blkdiscard /usr/bin/blkdiscard -o 65536 -l 131072 $device
dd if=$device of=/run/after bs=64k count=16 iflag=direct 2>/dev/null
part() { dd if="$1" bs=64k skip="$2" count="$3" 2>/dev/null | md5sum; }
check discard.reads_zeroes "$(dd if=/dev/zero bs=64k count=2 2>/dev/null | md5sum)" "$(part /run/after 1 2)"
check discard.leaves_what_is_before "$(part /run/before 0 1)" "$(part /run/after 0 1)"
check discard.leaves_what_is_behind "$(part /run/before 3 13)" "$(part /run/after 3 13)"
try discard.zeroes /usr/bin/blkdiscard -z -o 0 -l 65536 $device
dd if=$device of=/run/after bs=64k count=1 iflag=direct 2>/dev/null
check discard.zeroes_are_written "$(part /dev/zero 0 1)" "$(part /run/after 0 1)"
rm -f /run/before /run/after
