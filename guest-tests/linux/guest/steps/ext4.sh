# A file system of the distribution's: made, filled, discarded from, checked.
mkdir -p /run/fs
device=/dev/$(ns 4)
try ext4.mkfs /usr/bin/mke2fs -q -F -t ext4 $device
try ext4.mount mount -t ext4 -o discard $device /run/fs
fill() {
    for n in 1 2 3 4 5 6 7 8; do
        dd if=/dev/urandom of="/run/fs/$n" bs=64k count=4 2>/dev/null || return
    done
    sync
}
try ext4.fill fill
sums=$(cat /run/fs/? | md5sum)
try ext4.remove rm /run/fs/8
cat /run/fs/? | md5sum >/run/sums
try ext4.fstrim /usr/bin/fstrim -v /run/fs
try ext4.unmount umount /run/fs
try ext4.fsck e2fsck -f -n $device
echo 3 >/proc/sys/vm/drop_caches
try ext4.mount_again mount -t ext4 $device /run/fs
check ext4.files_are_there "$(cat /run/sums)" "$(cat /run/fs/? | md5sum)"
umount /run/fs
