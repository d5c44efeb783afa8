# The root file system lies on the drive, and what an earlier boot wrote to it is there.
root() { awk -v field="$1" '$5 == "/" { print $field }' /proc/self/mountinfo; }
check root.is_the_drive "$(cat /sys/block/nvme0n1/dev)" "$(root 3)"
if [ -e /kept ]; then
    check root.keeps_what_was_written "$MARK" "$(cat /kept)"
else
    echo "$MARK" >/kept
    sync
    echo 3 >/proc/sys/vm/drop_caches
    check root.reads_it_back "$MARK" "$(cat /kept)"
fi
try root.becomes_read_only mount -o remount,ro /
