//! The driver's transport over a QEMU machine without a guest: BAR accesses go through qtest,
//! memory is a shared file, MSI-X messages land in memory and are counted there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nvme_host::Transport;

use crate::socket::Qtest;

const MEMORY: u64 = 256 << 20;
/// Where MSI-X messages are written: a dword a vector.
const MESSAGES: u64 = 0x10_0000;
const DMA_START: u64 = 0x20_0000;
const DMA_ALIGN: u64 = 64 << 10;
const BAR: u64 = 0xE000_0000;
/// Bus 0, device 4.
const FUNCTION: u32 = 0x8000_0000 | 4 << 11;
const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;
/// Bytes of the firmware image; it ends at 4 GiB, with the reset vector in its last 16 bytes.
const FIRMWARE: usize = 64 << 10;

/// Firmware that halts the processor for ever: `cli; hlt; jmp back`.
fn halting_firmware() -> Vec<u8> {
    let mut image = vec![0xF4; FIRMWARE];
    let vector = FIRMWARE - 16;
    image[vector..vector + 4].copy_from_slice(&[0xFA, 0xF4, 0xEB, 0xFD]);
    image
}

/// What machine to start.
pub(crate) struct Options {
    /// I/O queue pairs.
    pub(crate) queues: u16,
    /// Identifier and block size of each namespace.
    pub(crate) namespaces: Vec<(u32, u32)>,
    /// Further properties of the nvme device, each with a comma before it.
    pub(crate) more: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 8,
            namespaces: vec![(1, 512)],
            more: "",
        }
    }
}

pub(crate) struct QemuTransport {
    qtest: Qtest,
    child: Child,
    /// Goes when the machine does.
    _folder: tempdir::Folder,
    memory: File,
    next: u64,
    started: Instant,
    msix: u16,
    vectors: u16,
    table: u64,
    pending: u64,
    counts: Vec<u64>,
}

/// A folder that goes when it is dropped.
mod tempdir {
    use std::path::{Path, PathBuf};

    pub(crate) struct Folder(PathBuf);

    impl Folder {
        pub(crate) fn new(base: &Path, name: &str) -> std::io::Result<Self> {
            let path = base.join(name);
            std::fs::create_dir_all(&path)?;
            Ok(Self(path))
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // What remains is in a temporary folder anyway.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl QemuTransport {
    /// Starts QEMU.
    pub(crate) fn start(qemu: &Path, options: &Options) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let shm = PathBuf::from("/dev/shm");
        let base = if shm.is_dir() {
            shm
        } else {
            std::env::temp_dir()
        };
        let name = format!("ferrite-qemu-{}-{number}", std::process::id());
        let folder = tempdir::Folder::new(&base, &name).expect("a temporary folder");
        let path = |file: &str| folder.path().join(file).display().to_string();
        let memory = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path("ram"))
            .expect("a file for the machine's memory");
        memory
            .set_len(MEMORY)
            .expect("room for the machine's memory");
        std::fs::write(path("halt"), halting_firmware()).expect("a firmware image");
        let mut command = Command::new(qemu);
        command
            .args(["-nodefaults", "-display", "none", "-accel", "tcg"])
            .args(["-bios", &path("halt")])
            .args(["-machine", "q35,memory-backend=ram", "-m", "256M"])
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=ram,size=256M,share=on,mem-path={}",
                path("ram")
            ))
            .args(["-qtest-log", "/dev/null"])
            .arg("-qtest")
            .arg(format!("unix:{},server=on,wait=off", path("qtest")))
            .arg("-device")
            .arg(format!(
                "nvme,id=nvme0,serial=qemu,addr=4,max_ioqpairs={},msix_qsize={}{}",
                options.queues,
                options.queues + 1,
                options.more
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        for (nsid, block) in &options.namespaces {
            let image = path(&format!("image{nsid}"));
            File::create(&image)
                .and_then(|file| file.set_len(64 << 20))
                .expect("an image");
            command
                .arg("-drive")
                .arg(format!(
                    "if=none,id=drive{nsid},format=raw,discard=unmap,file={image}"
                ))
                .arg("-device")
                .arg(format!(
                    "nvme-ns,drive=drive{nsid},bus=nvme0,nsid={nsid},logical_block_size={block},\
                     physical_block_size={block},uuid=00000000-0000-4000-8000-{nsid:012x}"
                ));
        }
        let child = command.spawn().expect("QEMU starts");
        let mut machine = Self::connect(child, folder, memory);
        machine.set_up();
        machine
    }

    fn connect(mut child: Child, folder: tempdir::Folder, memory: File) -> Self {
        let socket = folder.path().join("qtest");
        let started = Instant::now();
        let qtest = loop {
            if let Ok(qtest) = Qtest::connect(&socket) {
                break qtest;
            }
            let ended = child.try_wait().expect("it is ours");
            assert_eq!(ended, None, "QEMU ended");
            if started.elapsed() > Duration::from_secs(20) {
                child.kill().expect("it is ours");
                panic!("QEMU opens no socket");
            }
            std::thread::yield_now();
        };
        Self {
            qtest,
            child,
            _folder: folder,
            memory,
            next: DMA_START,
            started,
            msix: 0,
            vectors: 0,
            table: 0,
            pending: 0,
            counts: Vec::new(),
        }
    }

    /// Gives the function its BAR, switches it on, and aims its MSI-X messages at memory.
    fn set_up(&mut self) {
        self.config_write32(0x10, BAR as u32);
        self.config_write32(0x14, (BAR >> 32) as u32);
        self.config_write32(0x04, 0x6);
        let mut at = self.config_read32(0x34) & 0xFC;
        while at != 0 {
            let header = self.config_read32(at as u16);
            if header & 0xFF == 0x11 {
                self.msix = at as u16;
                self.vectors = ((header >> 16) & 0x7FF) as u16 + 1;
                break;
            }
            at = (header >> 8) & 0xFC;
        }
        assert!(self.msix != 0, "QEMU's nvme has MSI-X");
        let table = self.config_read32(self.msix + 4);
        let pending = self.config_read32(self.msix + 8);
        assert_eq!((table & 7, pending & 7), (0, 0), "MSI-X sits in BAR0");
        self.table = BAR + u64::from(table & !7);
        self.pending = BAR + u64::from(pending & !7);
        self.counts = vec![0; usize::from(self.vectors)];
        for vector in 0..self.vectors {
            let entry = self.table + 16 * u64::from(vector);
            let message = MESSAGES + 4 * u64::from(vector);
            self.qtest.write(entry, 4, message & 0xFFFF_FFFF);
            self.qtest.write(entry + 4, 4, message >> 32);
            self.qtest.write(entry + 8, 4, u64::from(vector) + 1);
            self.qtest.write(entry + 12, 4, 0);
        }
        let control = self.config_read32(self.msix);
        self.config_write32(self.msix, control | MSIX_ENABLE);
    }

    /// Counts the messages that have landed since the last look; several count as one.
    fn collect(&mut self) {
        for vector in 0..self.vectors {
            let at = MESSAGES + 4 * u64::from(vector);
            let mut message = [0; 4];
            self.mem_read(at, &mut message);
            if message != [0; 4] {
                self.mem_write(at, &[0; 4]);
                self.counts[usize::from(vector)] += 1;
            }
        }
    }
}

impl Drop for QemuTransport {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Transport for QemuTransport {
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        let value = self.qtest.read(BAR + offset, data.len()).to_le_bytes();
        data.copy_from_slice(&value[..data.len()]);
        self.collect();
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.qtest
            .write(BAR + offset, data.len(), u64::from_le_bytes(value));
        self.collect();
    }

    fn config_read32(&mut self, offset: u16) -> u32 {
        self.qtest
            .outl(CONFIG_ADDRESS, FUNCTION | u32::from(offset & 0xFC));
        self.qtest.inl(CONFIG_DATA)
    }

    fn config_write32(&mut self, offset: u16, value: u32) {
        self.qtest
            .outl(CONFIG_ADDRESS, FUNCTION | u32::from(offset & 0xFC));
        self.qtest.outl(CONFIG_DATA, value);
    }

    fn dma_alloc(&mut self, bytes: u64) -> Option<u64> {
        let start = self.next;
        let end = start
            .checked_add(bytes)?
            .checked_next_multiple_of(DMA_ALIGN)?;
        if end > MEMORY {
            return None;
        }
        self.next = end;
        for at in (start..end).step_by(65536) {
            self.mem_write(at, &[0; 65536]);
        }
        Some(start)
    }

    fn dma_reset(&mut self) {
        self.next = DMA_START;
    }

    fn memory_end(&self) -> u64 {
        MEMORY
    }

    fn mem_read(&self, address: u64, data: &mut [u8]) {
        if self.memory.read_exact_at(data, address).is_err() {
            data.fill(0xFF);
        }
    }

    fn mem_write(&mut self, address: u64, data: &[u8]) {
        if address.saturating_add(data.len() as u64) <= MEMORY {
            self.memory
                .write_all_at(data, address)
                .expect("the machine's memory can be written");
        }
    }

    fn mem_load32(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.mem_read(address, &mut data);
        u32::from_le_bytes(data)
    }

    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn interrupts(&mut self, vector: u16) -> u64 {
        self.collect();
        self.counts
            .get(usize::from(vector))
            .copied()
            .unwrap_or_default()
    }

    fn wait_interrupt(&mut self, vector: u16, seen: u64, timeout_ns: u64) -> bool {
        let start = self.now_ns();
        loop {
            if self.interrupts(vector) != seen {
                return true;
            }
            if self.now_ns() - start > timeout_ns {
                return false;
            }
            self.relax();
        }
    }

    fn mask_vector(&mut self, vector: u16, masked: bool) {
        let control = self.table + 16 * u64::from(vector) + 12;
        self.qtest.write(control, 4, u64::from(masked));
        self.collect();
    }

    fn vector_pending(&mut self, vector: u16) -> bool {
        let word = self.pending + u64::from(vector / 64) * 8;
        self.qtest.read(word, 8) >> (vector % 64) & 1 != 0
    }

    fn mask_function(&mut self, masked: bool) {
        let control = self.config_read32(self.msix) & !MSIX_FUNCTION_MASK;
        let mask = if masked { MSIX_FUNCTION_MASK } else { 0 };
        self.config_write32(self.msix, control | mask);
        self.collect();
    }

    fn now_ns(&mut self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn relax(&mut self) {
        std::thread::yield_now();
        self.collect();
    }
}
