# Everything that runs in ring 0: boot, interrupt and exception entries, and the calls that
# ring 3 makes by UD2. Integer instructions only: hosts without hardware virtualisation
# emulate ring 0, slowly, and give up on SSE, AVX, INT n and others (vmm/tests/ring0.rs
# disassembles this section and refuses anything not on its list).

.set RING0_BASE,    0x100000      # as in kernel.ld
.set TSS_BASE,      0x110000      # as in kernel.ld
.set TSS_LIMIT,     0x2068        # 68h of TSS, 2000h of I/O bitmap, one byte of ones
.set CODE0,         0x08
.set DATA0,         0x10
.set DATA3,         0x1b
.set CODE3,         0x23
.set TSS_SELECTOR,  0x28
.set LAPIC_EOI,     0xfee000b0
.set DEBUG_EXIT,    0xf4
.set CALL_MAGIC,    0x46655269    # as in call.rs

# PVH note: Xen's ELF note 18, XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
.section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

.section .ring0, "ax", @progbits
.globl ring0_base
ring0_base:

# --- Boot (32-bit protected mode, paging off, EBX = hvm_start_info) --------------------
.code32
.globl pvh_start
pvh_start:
    cld
    movl    $ring0_stack_top, %esp
    movl    $ring3_stack_guard, %eax
    shrl    $12, %eax
    movl    $0, low_pages(,%eax,8)  # not present: below 4 MiB (kernel.ld)
    movl    $pml4, %eax
    movl    %eax, %cr3
    movl    %cr4, %eax
    orl     $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx       # EFER
    rdmsr
    orl     $0x100, %eax            # LME
    wrmsr
    movl    $0x80010033, %eax       # PG, WP, NE, ET, MP, PE
    movl    %eax, %cr0
    lgdt    gdt_pointer
    ljmp    $CODE0, $long_mode

.code64
long_mode:
    movl    $DATA0, %eax
    movl    %eax, %ss
    movl    $DATA3, %eax
    movl    %eax, %ds
    movl    %eax, %es
    lidt    idt_pointer(%rip)
    movl    $TSS_SELECTOR, %eax
    ltr     %ax
    # Firmware may have left the PIT ticking through the PIC, at exceptions' vectors. Masked,
    # not initialised: the first step of that would open all its lines.
    movl    $0xff, %eax
    outb    %al, $0x21
    outb    %al, $0xa1
    movl    %ebx, %edi              # first argument: the start info's address
    pushq   $DATA3
    leaq    ring3_stack_top-8(%rip), %rax
    pushq   %rax
    pushq   $0x202                  # IF
    pushq   $CODE3
    leaq    ring3_entry(%rip), %rax
    pushq   %rax
    iretq

# --- Exceptions: 16 bytes a stub, so that the IDT is a constant table ------------------
.balign 16
exception_stubs:
.set vector, 0
.rept 32
    .balign 16
    .if vector == 6
        jmp     invalid_opcode
    .else
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
            pushq   $0
        .endif
        pushq   $vector
        jmp     exception
    .endif
    .set vector, vector + 1
.endr
.balign 16

# Stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. Keeps a record of it and leaves to
# ring 3, which prints it. A second exception has no one left to tell: exit at once.
exception:
    cmpl    $0, fault_seen(%rip)
    jne     exception_twice
    movl    $1, fault_seen(%rip)
    movq    %rax, fault_record+64(%rip)
    movq    %rbx, fault_record+72(%rip)
    movq    %rcx, fault_record+80(%rip)
    movq    %rdx, fault_record+88(%rip)
    movq    %rsi, fault_record+96(%rip)
    movq    %rdi, fault_record+104(%rip)
    movq    %rbp, fault_record+112(%rip)
    popq    %rax
    movq    %rax, fault_record(%rip)
    popq    %rax
    movq    %rax, fault_record+8(%rip)
    popq    %rax
    movq    %rax, fault_record+16(%rip)
    popq    %rax
    movq    %rax, fault_record+24(%rip)
    popq    %rax
    movq    %rax, fault_record+32(%rip)
    popq    %rax
    movq    %rax, fault_record+40(%rip)
    popq    %rax
    movq    %rax, fault_record+48(%rip)
    movq    %cr2, %rax
    movq    %rax, fault_record+56(%rip)
    pushq   $DATA3
    leaq    fault_stack_top-8(%rip), %rax
    pushq   %rax
    pushq   $0x2                    # interrupts stay off
    pushq   $CODE3
    leaq    ring3_fault(%rip), %rax
    pushq   %rax
    iretq

exception_twice:
    movl    $DEBUG_EXIT, %edx
    movl    $0x14, %eax             # ExitCode::FaultTwice
    outb    %al, %dx
1:  hlt
    jmp     1b

# --- Interrupts: vectors 20h to FFh, 32 bytes a stub -----------------------------------
.balign 32
interrupt_stubs:
.rept 224
    .balign 32
    incq    interrupt_counts+8*vector(%rip)
    incq    interrupt_total(%rip)
    .if vector != 255               # the LAPIC's spurious vector takes no EOI
        pushq   %rax
        movl    $LAPIC_EOI, %eax
        movl    $0, (%rax)
        popq    %rax
    .endif
    iretq
    .set vector, vector + 1
.endr
.balign 32

# --- #UD: a call if it is a UD2 from ring 3 with the magic in R10, else an exception ----
# RAX selects. RDI, RSI, RDX are arguments; the result comes in RAX. Others are kept.
invalid_opcode:
    cmpl    $CALL_MAGIC, %r10d
    jne     2f
    cmpq    $CODE3, 8(%rsp)
    jne     2f
    pushq   %rbx
    movq    8(%rsp), %rbx
    cmpw    $0x0b0f, (%rbx)
    popq    %rbx
    jne     2f
    addq    $2, (%rsp)
    cmpl    $1, %eax
    jb      call_wait
    je      call_cpuid
    cmpl    $3, %eax
    jb      call_rdmsr
    je      call_wrmsr
    cmpl    $5, %eax
    jb      call_control
    je      call_triple_fault
    cmpl    $7, %eax
    jb      call_ring0_fault
    movq    $-1, %rax
    iretq
2:  pushq   $0
    pushq   $6
    jmp     exception

# 0 wait(RDI = interrupt_total as last seen): returns after one more interrupt, or at once
# if one has come since. IF is 0 between the test and STI, whose shadow covers HLT.
call_wait:
    cmpq    interrupt_total(%rip), %rdi
    jne     3f
    sti
    hlt
    cli
3:  iretq

# 1 cpuid(EDI = leaf, ESI = subleaf, RDX = where EAX, EBX, ECX, EDX go)
call_cpuid:
    pushq   %rbx
    pushq   %rcx
    pushq   %rdx
    movl    %edi, %eax
    movl    %esi, %ecx
    movq    %rdx, %r10
    cpuid
    movl    %eax, (%r10)
    movl    %ebx, 4(%r10)
    movl    %ecx, 8(%r10)
    movl    %edx, 12(%r10)
    popq    %rdx
    popq    %rcx
    popq    %rbx
    iretq

# 2 rdmsr(EDI)
call_rdmsr:
    pushq   %rcx
    pushq   %rdx
    movl    %edi, %ecx
    rdmsr
    shlq    $32, %rdx
    orq     %rdx, %rax
    popq    %rdx
    popq    %rcx
    iretq

# 3 wrmsr(EDI, RSI = value)
call_wrmsr:
    pushq   %rcx
    pushq   %rdx
    movl    %edi, %ecx
    movl    %esi, %eax
    movq    %rsi, %rdx
    shrq    $32, %rdx
    wrmsr
    popq    %rdx
    popq    %rcx
    iretq

# 4 control registers(RDX = where CR0, CR2, CR3, CR4 go)
call_control:
    movq    %cr0, %rax
    movq    %rax, (%rdx)
    movq    %cr2, %rax
    movq    %rax, 8(%rdx)
    movq    %cr3, %rax
    movq    %rax, 16(%rdx)
    movq    %cr4, %rax
    movq    %rax, 24(%rdx)
    iretq

# 5 triple fault, for the machine's own tests: an exception with no IDT.
call_triple_fault:
    lidt    no_idt_pointer(%rip)
    movq    $0, %rax
    movabsq $0x0000800000000000, %rbx
    movq    (%rbx), %rax
    iretq

# 6 an exception inside ring 0, for the machine's own tests.
call_ring0_fault:
    movabsq $0x0000008000000000, %rbx
    movq    (%rbx), %rax
    iretq

.globl ring0_end
ring0_end:

# --- Tables --------------------------------------------------------------------------
.section .tables, "aw", @progbits
.balign 4096
.globl tss
tss:
    .long 0
    .quad ring0_stack_top           # RSP0
    .quad 0, 0                      # RSP1, RSP2
    .quad 0
    .quad ist1_stack_top            # IST1: NMI, #DF, #MC
    .quad 0, 0, 0, 0, 0, 0
    .quad 0
    .word 0
    .word 0x68                      # I/O bitmap base
    .fill 8192, 1, 0                # every port open to ring 3
    .byte 0xff

.balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 08h code, ring 0, 64 bit
    .quad 0x00cf93000000ffff        # 10h data, ring 0
    .quad 0x00cff3000000ffff        # 18h data, ring 3
    .quad 0x00affb000000ffff        # 20h code, ring 3, 64 bit
    .word TSS_LIMIT, TSS_BASE & 0xffff      # 28h TSS, 16 bytes
    .byte (TSS_BASE >> 16) & 0xff, 0x89, 0, TSS_BASE >> 24
    .quad 0
gdt_end:

.balign 16
idt:
.set vector, 0
.rept 32
    .word exception_stubs - ring0_base + 16*vector
    .word CODE0
    .if vector == 2 || vector == 8 || vector == 18
        .byte 1
    .else
        .byte 0
    .endif
    .byte 0x8e                      # present, DPL 0, interrupt gate
    .word RING0_BASE >> 16
    .quad 0
    .set vector, vector + 1
.endr
.rept 224
    .word interrupt_stubs - ring0_base + 32*(vector-32)
    .word CODE0
    .byte 0, 0x8e
    .word RING0_BASE >> 16
    .quad 0
    .set vector, vector + 1
.endr
idt_end:

.balign 4
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
no_idt_pointer:
    .word 0
    .quad 0

# Identity map of the low 4 GiB in 2 MiB pages, the first two of them in 4 KiB pages for the
# guard below ring 3's stack; all open to ring 3. Present in the file, so that ring 0 builds
# nothing. A and D are set: no walk needs to write.
.balign 4096
pml4:
    .quad pdpt + 0x27               # P, RW, US, A
    .fill 511, 8, 0
pdpt:
    .quad pds + 0x0027
    .quad pds + 0x1027
    .quad pds + 0x2027
    .quad pds + 0x3027
    .fill 508, 8, 0
pds:
    .quad low_pages + 0x0027
    .quad low_pages + 0x1027
.set page, 0x400000
.rept 1534                          # 4 MiB to 3 GiB: memory
    .quad page + 0xe7               # P, RW, US, A, D, PS
    .set page, page + 0x200000
.endr
.rept 512                           # 3 to 4 GiB: devices; PWT and PCD too
    .quad page + 0xff
    .set page, page + 0x200000
.endr
low_pages:
.set page, 0
.rept 1024
    .quad page + 0x67               # P, RW, US, A, D
    .set page, page + 0x1000
.endr

# --- Zeroed --------------------------------------------------------------------------
.section .bss.ring0, "aw", @nobits
.balign 4096
    .skip 16384
ring0_stack_top:
    .skip 8192
ist1_stack_top:
# An overflow of ring 3's stack faults here, and does not reach the stacks above; the probes that
# rustc emits for large frames touch every page on the way.
.globl ring3_stack_guard
ring3_stack_guard:
    .skip 4096
    .skip 1048576
ring3_stack_top:
    .skip 65536
fault_stack_top:
.balign 64
.globl interrupt_counts
interrupt_counts:
    .skip 2048
.globl interrupt_total
interrupt_total:
    .skip 8
.globl fault_record
fault_record:
    .skip 120
fault_seen:
    .skip 8
