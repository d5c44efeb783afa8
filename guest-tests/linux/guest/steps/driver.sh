# The kernel's own driver binds and makes the queues and vectors that there are CPUs for.
controllers() { ls /sys/class/nvme | wc -l; }
check driver.finds_every_controller "$CONTROLLERS" "$(controllers)"
for path in /sys/class/nvme/nvme*; do
    name=${path##*/}
    await grep -q live "$path/state"
    check "driver.$name.is_live" live "$(cat "$path/state")"
    check "driver.$name.is_bound" nvme "$(basename "$(readlink "$path/device/driver")")"
    check "driver.$name.queues" "$QUEUES" "$(cat "$path/queue_count")"
    check "driver.$name.vectors_allocated" "$QUEUES" "$(ls "$path/device/msi_irqs" | wc -l)"
    check "driver.$name.vectors_used" "$QUEUES" "$(grep -c "${name}q" /proc/interrupts)"
done
