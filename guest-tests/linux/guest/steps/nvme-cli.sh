# Admin commands as nvme-cli sends them and reads what comes.
first=/dev/$(ns 1)
try cli.id_ctrl nvme id-ctrl /dev/nvme0
check cli.id_ctrl_serial "$SERIAL" "$(field sn)"
check cli.id_ctrl_namespaces "$NAMESPACES" "$(field nn)"
try cli.id_ns nvme id-ns /dev/$(ns 3)
check cli.id_ns_npwg "$NPWG3" "$(field npwg)"
check cli.id_ns_nawupf "$NAWUPF3" "$(field nawupf)"
try cli.smart_log nvme smart-log /dev/nvme0
check cli.smart_log_warning 0 "$(field critical_warning)"
try cli.error_log nvme error-log /dev/nvme0
# Named, the command set need not be looked up in CAP, which strict kernels keep from user space.
try cli.effects_log nvme effects-log /dev/nvme0 --csi=0
check cli.effects_log_has_format yes "$(grep -qi 'format' $out && echo yes)"
try cli.get_feature_queues nvme get-feature /dev/nvme0 -f 7
try cli.list nvme list
check cli.list_names_all "$NAMESPACES" "$(grep -c '^/dev/nvme0n' $out)"
try cli.flush nvme flush $first
dd if=/dev/urandom of=/run/block bs=4096 count=1 2>/dev/null
try cli.write nvme write $first -s 8 -c 7 -z 4096 -d /run/block
try cli.compare nvme compare $first -s 8 -c 7 -z 4096 -d /run/block
try cli.read nvme read $first -s 8 -c 7 -z 4096 -d /run/read
try cli.read_gives_what_was_written cmp /run/block /run/read
try cli.verify nvme verify $first -s 8 -c 7
try cli.write_zeroes nvme write-zeroes $first -s 8 -c 7
refused cli.compare_with_zeroes 'Compare' nvme compare $first -s 8 -c 7 -z 4096 -d /run/block
try cli.error_log_again nvme error-log /dev/nvme0 -e 1

# Another block size and back. The kernel looks again by itself.
size() { cat /sys/block/${first##*/}/queue/logical_block_size; }
is() { [ "$(size)" = "$1" ]; }
try cli.format_to_4k nvme format $first --lbaf=1 --force
await is 4096
check cli.format_to_4k_is_seen 4096 "$(size)"
try cli.format_back nvme format $first --lbaf=0 --force
await is 512
check cli.format_back_is_seen 512 "$(size)"
