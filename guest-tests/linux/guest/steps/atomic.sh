# RWF_ATOMIC writes: overlapping ones of the unit's size never mix; larger and misaligned ones are
# refused by the kernel.
for nsid in $ATOMIC_NSIDS; do
    device=$(ns "$nsid")
    unit=$(cat "/sys/block/$device/queue/atomic_write_unit_max_bytes")
    block=$(cat "/sys/block/$device/queue/logical_block_size")
    common="--filename=/dev/$device --ioengine=io_uring --direct=1 --iodepth=4 --size=$((unit * 8)) --minimal"
    checked="--verify=crc32c --verify_fatal=1 --verify_header_seed=0"
    # All blocks first, so that each has a header when it is read.
    try "atomic.ns$nsid.first" fio --name=f $common $checked --do_verify=0 --rw=write --bs=$unit --atomic=1
    # Several writers to the same eight units; each write carries its own checksum.
    try "atomic.ns$nsid.overlapping" fio --name=w $common $checked --do_verify=0 --rw=randwrite --bs=$unit \
        --atomic=1 --numjobs=4 --norandommap --randrepeat=0 --number_ios=30 --group_reporting
    try "atomic.ns$nsid.nothing_torn" fio --name=v $common $checked --rw=read --bs=$unit
    refused "atomic.ns$nsid.larger_than_unit" 'Invalid argument' \
        fio --name=l $common --rw=write --bs=$((unit * 2)) --atomic=1 --number_ios=1
    if [ "$unit" -gt "$block" ]; then
        refused "atomic.ns$nsid.misaligned" 'Invalid argument' \
            fio --name=m $common --rw=write --bs=$unit --atomic=1 --offset=$block --number_ios=1
    fi
done
