# XFS with blocks above a page, on logical blocks of that size.
mkdir -p /run/fs
for nsid in $LARGE_NSIDS; do
    device=$(ns "$nsid")
    block=$(cat "/sys/block/$device/queue/logical_block_size")
    try "xfs.ns$nsid.mkfs" mkfs.xfs -q -f -K -b "size=$block" -s "size=$((block > 32768 ? 32768 : block))" "/dev/$device"
    try "xfs.ns$nsid.mount" mount -t xfs "/dev/$device" /run/fs
    check "xfs.ns$nsid.block_size" "$block" "$(stat -f -c %S /run/fs)"
    try "xfs.ns$nsid.fio" fio --name=x --directory=/run/fs --ioengine=io_uring --direct=1 --rw=randwrite \
        --bs=$block --size=$((block * 64)) --verify=crc32c --verify_fatal=1 --minimal
    dd if=/dev/urandom of=/run/fs/odd bs=1000 count=300 2>/dev/null
    sum=$(md5sum </run/fs/odd)
    try "xfs.ns$nsid.unmount" umount /run/fs
    try "xfs.ns$nsid.repair" xfs_repair -n "/dev/$device"
    try "xfs.ns$nsid.mount_again" mount -t xfs "/dev/$device" /run/fs
    check "xfs.ns$nsid.file_is_there" "$sum" "$(md5sum </run/fs/odd)"
    umount /run/fs
done
