//! Numbers that the parts of the controller know each other by.

/// A shard's number; 0 has the admin queue.
pub(crate) type ShardId = u16;

/// Counts the resets and shutdowns of a controller. The number of the last reset is an epoch: a
/// message of an earlier one is out of date.
pub(crate) type Epoch = u32;

/// Identifies an admin command that waits for another shard: a slot of shard 0.
pub(crate) type AdminTicket = u16;
