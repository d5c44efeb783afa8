# The root file system lies on the drive, and what is written to it stays.
check root.device_and_kind '/dev/root ext4' "$(awk '$2 == "/" { print $1, $3 }' /proc/mounts)"
check root.of_the_drive "$(cat /sys/block/nvme0n1/dev)" "$(mountpoint -d /)"
keep() {
    echo "$MARK" >/kept && sync && mount -o remount,ro /
}
try root.keeps_a_file keep
echo 3 >/proc/sys/vm/drop_caches
check root.reads_it_back "$MARK" "$(cat /kept)"
