# XFS with blocks above a page on logical blocks above a page: 16 KiB, for its sectors have 32 KiB at
# most.
mkdir -p /run/fs
device=$(ns "$XFS_NSID")
for block in 16384 65536; do
    try "xfs.$block.mkfs" mkfs.xfs -q -f -K -b "size=$block" -s size=16384 "/dev/$device"
    try "xfs.$block.mount" mount -t xfs "/dev/$device" /run/fs
    check "xfs.$block.block_size" "$block" "$(stat -f -c %S /run/fs)"
    try "xfs.$block.fio" fio --name=x --directory=/run/fs --ioengine=io_uring --direct=1 --rw=randwrite \
        --bs=$block --size=$((block * 64)) --verify=crc32c --verify_fatal=1 --minimal
    dd if=/dev/urandom of=/run/fs/odd bs=1000 count=300 2>/dev/null
    sum=$(md5sum </run/fs/odd)
    try "xfs.$block.unmount" umount /run/fs
    try "xfs.$block.repair" xfs_repair -n "/dev/$device"
    try "xfs.$block.mount_again" mount -t xfs "/dev/$device" /run/fs
    check "xfs.$block.file_is_there" "$sum" "$(md5sum </run/fs/odd)"
    umount /run/fs
done
