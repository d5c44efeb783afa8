//! Pages as databases write them, and what became of them.
//!
//! [`region::init`] prepares a region of a file or block device. [`write::run`] has threads
//! overwrite pages of it, of one size or several, overlapping or not, and notes in a
//! [`journal`] what was acknowledged and what was made durable. [`verify::run`] reads the
//! region, after a crash or without one, and finds pages that are torn, writes that are lost
//! though they were durable, and sectors that nobody wrote.
//!
//! Each sector of 512 bytes carries a [stamp](page::Stamp): which write it is of, where that
//! write's page lies, its checksum and the page's. So what is found needs no other record to be
//! judged, however pages overlap: [`history`] asks whether there is any order of the writes, each
//! done wholly or not at all, that leaves what is seen. The journal adds which of them must have
//! been there.
//!
//! Left out: regions above 16 GiB, since what was seen of every sector is kept in memory; reading
//! pages back through anything but the target itself.

#![forbid(unsafe_code)]

pub mod buffer;
pub mod crc;
mod cycles;
pub mod error;
pub mod findings;
pub mod history;
pub mod journal;
pub mod limits;
pub mod page;
pub mod random;
pub mod recent;
pub mod region;
pub mod size;
pub mod target;
pub mod verify;
pub mod version;
pub mod write;
