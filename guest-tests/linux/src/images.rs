//! What machines boot from: initial RAM disks, and the outer machine's disk.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::fetch::{Fetched, Kernel, apt};
use crate::jobs::Job;
use crate::modules;
use crate::programs::{self, Files};
use crate::scenarios;

/// The guests' first process.
const GUEST_INIT: &str = include_str!("../guest/init");
/// The outer machine's: that of its RAM disk, and what it starts on its disk.
const OUTER_INIT: &str = include_str!("../outer/init");
const OUTER_RUNNER: &str = include_str!("../outer/runner");
/// What guests run.
const GUEST_PROGRAMS: [&str; 10] = [
    "busybox",
    "fio",
    "nvme",
    "mkfs.xfs",
    "xfs_repair",
    "mke2fs",
    "e2fsck",
    "blkdiscard",
    "fstrim",
    "lsblk",
];
/// Modules that guests load: what is not built in.
const GUEST_MODULES: [&str; 1] = ["xfs"];
/// Modules of the outer machine: its disk, and KVM.
const OUTER_MODULES: [&str; 3] = ["virtio_blk", "irqbypass", "kvm-amd"];
/// Links of a root whose files lie under `usr`, as Debian's do.
const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib"),
];
/// Size of a guest's root file system.
const GUEST_ROOT: u64 = 64 << 20;
/// Room on the outer machine's disk beside what is put there.
const DISK_ROOM: u64 = 512 << 20;

/// Makes the folder that jobs know as `$G`: kernels, and the parts of initial RAM disks.
///
/// - `vmlinux-NAME`, `bzImage-NAME`: a kernel as ELF and as it comes
/// - `modules-NAME.cpio`: modules for it
/// - `root.ext4`: a root file system
/// - `tools.cpio`: programs, and an init that runs `/job/main.sh` if another archive has one
pub(crate) fn guest_folder(folder: &Path, fetched: &Fetched, dbpage: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for kernel in &fetched.kernels {
        place(
            &kernel.elf,
            &folder.join(format!("vmlinux-{}", kernel.name)),
        )?;
        place(
            &kernel.image,
            &folder.join(format!("bzImage-{}", kernel.name)),
        )?;
        let mut archive = create(&folder.join(format!("modules-{}.cpio", kernel.name)))?;
        add_modules(&mut archive, kernel, &GUEST_MODULES)?;
        close(archive)?;
    }
    let mut archive = create(&folder.join("tools.cpio"))?;
    let programs = programs::with_libraries(&fetched.tools, &GUEST_PROGRAMS)?;
    add_files(&mut archive, &programs)?;
    for (link, target) in LINKS {
        archive.link(link, target)?;
    }
    archive.file("init", true, GUEST_INIT.as_bytes())?;
    archive.file("usr/bin/ferrite-dbpage", true, &fs::read(dbpage)?)?;
    close(archive)?;
    guest_root(folder, fetched)
}

/// Makes `root.ext4`, a root file system with busybox and a job of its own.
fn guest_root(folder: &Path, fetched: &Fetched) -> Result<()> {
    let root = folder.with_extension("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for name in ["dev", "proc", "sys", "run", "etc", "busybox", "job"] {
        fs::create_dir_all(root.join(name))?;
    }
    for (link, target) in LINKS {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    for (name, file) in programs::with_libraries(&fetched.tools, &["busybox"])? {
        place(&file, &root.join(name))?;
    }
    write_program(&root.join("init"), GUEST_INIT)?;
    for (path, text) in scenarios::root_files() {
        fs::write(root.join(path), text)?;
    }
    file_system(fetched, &root, &folder.join("root.ext4"), GUEST_ROOT)
}

/// Makes a job's own archives and script in the folder that jobs know as `$J`.
pub(crate) fn job_folder(folder: &Path, jobs: &[&Job]) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for (number, job) in jobs.iter().enumerate() {
        let script = folder.join(script_name(number, job));
        fs::write(&script, &job.script)?;
        fs::write(script.with_extension("seconds"), job.seconds.to_string())?;
        if !job.files.is_empty() {
            let mut archive = create(&folder.join(format!("{}.cpio", job.name)))?;
            for (path, text) in &job.files {
                archive.file(path, true, text.as_bytes())?;
            }
            close(archive)?;
        }
    }
    Ok(())
}

/// The name of a job's script: they run in the order of their names.
pub(crate) fn script_name(number: usize, job: &Job) -> String {
    format!("{number:02}-{}.sh", job.name)
}

/// Makes the outer machine's initial RAM disk with the jobs it is to run.
pub(crate) fn outer_ram_disk(
    path: &Path,
    fetched: &Fetched,
    kernel: &Kernel,
    jobs: &Path,
) -> Result<()> {
    let mut archive = create(path)?;
    let busybox = programs::with_libraries(&fetched.tools, &["busybox"])?;
    for file in busybox.values() {
        archive.file("bin/busybox", true, &fs::read(file)?)?;
    }
    archive.file("init", true, OUTER_INIT.as_bytes())?;
    add_modules(&mut archive, kernel, &OUTER_MODULES)?;
    for file in files_of(jobs)? {
        let name = format!("jobs/{}", apt::file_name(&file));
        archive.file(&name, false, &fs::read(&file)?)?;
    }
    close(archive)
}

/// Makes the outer machine's disk: a root with `ferrite`, tools, the guests' folder and `files`.
pub(crate) fn outer_disk(
    disk: &Path,
    root: &Path,
    fetched: &Fetched,
    ferrite: &Path,
    guest: &Path,
    files: &[PathBuf],
) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for folder in ["dev", "proc", "sys", "run", "files", "guest", "usr/lib"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (link, target) in LINKS {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    for (name, file) in programs::with_libraries(&fetched.tools, &["busybox"])? {
        place(&file, &root.join(name))?;
    }
    // Each with the libraries it was linked to, which are of different ages.
    add_apart(root, "ferrite", programs::of_host(ferrite)?)?;
    let gdb = programs::with_libraries(&fetched.debugger, &["gdb"])?;
    add_apart(root, "gdb", gdb)?;
    fs::write(root.join("runner"), OUTER_RUNNER)?;
    for file in files_of(guest)? {
        place(&file, &root.join("guest").join(apt::file_name(&file)))?;
    }
    for file in files {
        place(file, &root.join("files").join(apt::file_name(file)))?;
    }
    file_system(fetched, root, disk, size_of(root)? + DISK_ROOM)
}

/// Adds a program that runs by its own loader with its own libraries, in a folder of its name, and a
/// script in the path that starts it.
fn add_apart(root: &Path, program: &str, files: Files) -> Result<()> {
    for (name, file) in files {
        place(&file, &root.join(program).join(name))?;
    }
    let script = format!(
        "#!/bin/busybox sh\nexec /{program}/usr/lib/ld-linux-x86-64.so.2 \
         --library-path /{program}/usr/lib /{program}/usr/bin/{program} \"$@\"\n"
    );
    write_program(&root.join("usr/bin").join(program), &script)
}

/// Makes an ext4 file system of a folder in a file, with the fetched mke2fs.
pub(crate) fn file_system(fetched: &Fetched, root: &Path, image: &Path, size: u64) -> Result<()> {
    let _ = fs::remove_file(image);
    File::create(image)?.set_len(size)?;
    let mut command = fetched_program(fetched, "usr/sbin/mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"]);
    command.args(["-E", "root_owner=0:0,lazy_itable_init=1", "-d"]);
    apt::output(command.arg(root).arg(image)).map(drop)
}

/// A fetched program, run on this host by its own loader.
fn fetched_program(fetched: &Fetched, program: &str) -> Command {
    let root = &fetched.tools;
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path");
    command.arg(root.join("usr/lib/x86_64-linux-gnu"));
    command.arg(root.join(program));
    command
}

fn add_modules(archive: &mut Image, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let modules = modules::in_order(&kernel.modules, names)
        .with_context(|| format!("kernel {}", kernel.release))?;
    for (number, module) in modules.iter().enumerate() {
        let path = format!("modules/{number:02}-{}.ko", module.name);
        archive.file(&path, false, &module.data)?;
    }
    Ok(())
}

fn add_files(archive: &mut Image, files: &Files) -> Result<()> {
    for (name, file) in files {
        archive.file(name, true, &fs::read(file)?)?;
    }
    Ok(())
}

type Image = Archive<BufWriter<File>>;

fn create(path: &Path) -> Result<Image> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(Archive::new(BufWriter::new(file)))
}

fn close(archive: Image) -> Result<()> {
    archive
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        size += match metadata.is_dir() {
            true => size_of(&path)?,
            false => metadata.len(),
        };
    }
    Ok(size)
}

/// Puts a file at a place, without a copy where that can be.
fn place(file: &Path, at: &Path) -> Result<()> {
    if let Some(folder) = at.parent() {
        fs::create_dir_all(folder)?;
    }
    let _ = fs::remove_file(at);
    // A link of a link would point elsewhere.
    let file = fs::canonicalize(file).with_context(|| file.display().to_string())?;
    if fs::hard_link(&file, at).is_err() {
        fs::copy(&file, at).with_context(|| at.display().to_string())?;
    }
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}
