# Pages of several sizes, written over one another by several threads, atomically as the kernel
# understands it: none is torn for a reader meanwhile, none afterwards.
for nsid in $ATOMIC_NSIDS; do
    device=$(ns "$nsid")
    unit=$(cat "/sys/block/$device/queue/atomic_write_unit_max_bytes")
    block=$(cat "/sys/block/$device/queue/logical_block_size")
    # A file of the drive's name would be written and verified just as well.
    told=$(ferrite-dbpage limits "/dev/$device" --json 2>&1)
    case $told in
    *'"is_device":true'*) pass "dbpage.ns$nsid.device" ;;
    *) fail "dbpage.ns$nsid.device" "no block device: $told" ;;
    esac
    try "dbpage.ns$nsid.init" ferrite-dbpage init "/dev/$device" --length 512K
    try "dbpage.ns$nsid.write" ferrite-dbpage write "/dev/$device" --atomic --page "$block,$unit" --threads 4 \
        --readers 1 --ops 250 --fsync 50 --seed 1 --journal /run/acknowledged
    try "dbpage.ns$nsid.verify" ferrite-dbpage verify "/dev/$device" --journal /run/acknowledged
    rm -f /run/acknowledged
done
