# What is written is what is read: random and sequential, by io_uring, checked by CRC-32C.
for nsid in $NSIDS; do
    device=$(ns "$nsid")
    block=$(cat "/sys/block/$device/queue/logical_block_size")
    [ "$block" -lt 4096 ] && block=4096
    common="--filename=/dev/$device --ioengine=io_uring --direct=1 --iodepth=8 --verify=crc32c --verify_fatal=1
        --do_verify=1 --size=$((block * 256)) --minimal"
    try "fio.ns$nsid.random" fio --name=r $common --rw=randwrite --bs=$block --number_ios=200
    try "fio.ns$nsid.sequential" fio --name=s $common --rw=write --bs=$((block * 4)) --offset=$((block * 256))
done
# Sizes that are no multiple of anything but the block, over several PRP pages.
try fio.mixed_sizes fio --name=m --filename=/dev/$(ns 1) --ioengine=io_uring --direct=1 --iodepth=8 \
    --rw=randwrite --bsrange=512-128k --size=4m --io_size=4m --verify=crc32c --verify_fatal=1 --minimal
# Through the page cache.
try fio.buffered fio --name=p --filename=/dev/$(ns 2) --ioengine=io_uring --rw=randwrite --bs=4k --size=1m \
    --fsync=64 --verify=crc32c --verify_fatal=1 --minimal
check fio.interrupts_came yes "$(awk '/nvme0q1/ { print ($2 > 100) ? "yes" : "no: " $2 }' /proc/interrupts)"
