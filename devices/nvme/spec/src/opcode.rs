//! Opcodes and the identifiers that select within a command.

open_enum! {
    /// Admin command opcodes (Base 5, Figure "Opcodes for Admin Commands").
    pub struct AdminOpcode(u8) {
        /// Delete I/O Submission Queue.
        DELETE_IO_SQ = 0x00,
        /// Create I/O Submission Queue.
        CREATE_IO_SQ = 0x01,
        /// Get Log Page.
        GET_LOG_PAGE = 0x02,
        /// Delete I/O Completion Queue.
        DELETE_IO_CQ = 0x04,
        /// Create I/O Completion Queue.
        CREATE_IO_CQ = 0x05,
        /// Identify.
        IDENTIFY = 0x06,
        /// Abort.
        ABORT = 0x08,
        /// Set Features.
        SET_FEATURES = 0x09,
        /// Get Features.
        GET_FEATURES = 0x0A,
        /// Asynchronous Event Request.
        ASYNC_EVENT_REQUEST = 0x0C,
        /// Namespace Management.
        NAMESPACE_MANAGEMENT = 0x0D,
        /// Firmware Commit.
        FIRMWARE_COMMIT = 0x10,
        /// Firmware Image Download.
        FIRMWARE_IMAGE_DOWNLOAD = 0x11,
        /// Device Self-test.
        DEVICE_SELF_TEST = 0x14,
        /// Namespace Attachment.
        NAMESPACE_ATTACHMENT = 0x15,
        /// Keep Alive.
        KEEP_ALIVE = 0x18,
        /// Directive Send.
        DIRECTIVE_SEND = 0x19,
        /// Directive Receive.
        DIRECTIVE_RECEIVE = 0x1A,
        /// Virtualization Management.
        VIRTUALIZATION_MANAGEMENT = 0x1C,
        /// Doorbell Buffer Config.
        DOORBELL_BUFFER_CONFIG = 0x7C,
        /// Format NVM.
        FORMAT_NVM = 0x80,
        /// Security Send.
        SECURITY_SEND = 0x81,
        /// Security Receive.
        SECURITY_RECEIVE = 0x82,
        /// Sanitize.
        SANITIZE = 0x84,
    }
}

open_enum! {
    /// I/O command opcodes of the NVM Command Set (NVM 3.2).
    pub struct NvmOpcode(u8) {
        /// Flush.
        FLUSH = 0x00,
        /// Write.
        WRITE = 0x01,
        /// Read.
        READ = 0x02,
        /// Write Uncorrectable.
        WRITE_UNCORRECTABLE = 0x04,
        /// Compare.
        COMPARE = 0x05,
        /// Write Zeroes.
        WRITE_ZEROES = 0x08,
        /// Dataset Management.
        DATASET_MANAGEMENT = 0x09,
        /// Verify.
        VERIFY = 0x0C,
        /// Reservation Register.
        RESERVATION_REGISTER = 0x0D,
        /// Copy.
        COPY = 0x19,
    }
}

open_enum! {
    /// Controller or Namespace Structure: what Identify returns (Base 5.1.13.1).
    pub struct Cns(u8) {
        /// Identify Namespace of the namespace's command set (NVM).
        NAMESPACE = 0x00,
        /// Identify Controller.
        CONTROLLER = 0x01,
        /// Active Namespace ID list.
        ACTIVE_NAMESPACES = 0x02,
        /// Namespace Identification Descriptor list.
        NAMESPACE_DESCRIPTORS = 0x03,
        /// NVM Set list.
        NVM_SETS = 0x04,
        /// I/O command set specific Identify Namespace.
        CSI_NAMESPACE = 0x05,
        /// I/O command set specific Identify Controller.
        CSI_CONTROLLER = 0x06,
        /// I/O command set specific Active Namespace ID list.
        CSI_ACTIVE_NAMESPACES = 0x07,
        /// I/O command set independent Identify Namespace.
        INDEPENDENT_NAMESPACE = 0x08,
        /// Allocated Namespace ID list.
        ALLOCATED_NAMESPACES = 0x10,
        /// Identify Namespace of an allocated namespace.
        ALLOCATED_NAMESPACE = 0x11,
        /// Controller list of those attached to a namespace.
        NAMESPACE_CONTROLLERS = 0x12,
        /// Controller list of the subsystem.
        CONTROLLERS = 0x13,
        /// Primary Controller Capabilities.
        PRIMARY_CAPABILITIES = 0x14,
        /// Secondary Controller list.
        SECONDARY_CONTROLLERS = 0x15,
        /// I/O Command Set data structure.
        IO_COMMAND_SETS = 0x1C,
    }
}

open_enum! {
    /// Feature identifiers (Base 5.1.25.1).
    pub struct FeatureId(u8) {
        /// Arbitration.
        ARBITRATION = 0x01,
        /// Power Management.
        POWER_MANAGEMENT = 0x02,
        /// LBA Range Type (NVM).
        LBA_RANGE_TYPE = 0x03,
        /// Temperature Threshold.
        TEMPERATURE_THRESHOLD = 0x04,
        /// Error Recovery (NVM).
        ERROR_RECOVERY = 0x05,
        /// Volatile Write Cache.
        VOLATILE_WRITE_CACHE = 0x06,
        /// Number of Queues.
        NUMBER_OF_QUEUES = 0x07,
        /// Interrupt Coalescing.
        INTERRUPT_COALESCING = 0x08,
        /// Interrupt Vector Configuration.
        INTERRUPT_VECTOR_CONFIG = 0x09,
        /// Write Atomicity Normal (NVM).
        WRITE_ATOMICITY_NORMAL = 0x0A,
        /// Asynchronous Event Configuration.
        ASYNC_EVENT_CONFIG = 0x0B,
        /// Autonomous Power State Transition.
        AUTONOMOUS_POWER_STATE = 0x0C,
        /// Timestamp.
        TIMESTAMP = 0x0E,
        /// Keep Alive Timer.
        KEEP_ALIVE_TIMER = 0x0F,
        /// Host Behavior Support.
        HOST_BEHAVIOR_SUPPORT = 0x16,
        /// I/O Command Set Profile.
        IO_COMMAND_SET_PROFILE = 0x19,
    }
}

open_enum! {
    /// Log page identifiers (Base 5.1.12.1).
    pub struct LogId(u8) {
        /// Supported Log Pages.
        SUPPORTED_LOG_PAGES = 0x00,
        /// Error Information.
        ERROR_INFORMATION = 0x01,
        /// SMART / Health Information.
        SMART = 0x02,
        /// Firmware Slot Information.
        FIRMWARE_SLOT = 0x03,
        /// Changed Attached Namespace list.
        CHANGED_NAMESPACES = 0x04,
        /// Commands Supported and Effects.
        COMMANDS_SUPPORTED = 0x05,
        /// Device Self-test.
        DEVICE_SELF_TEST = 0x06,
        /// Endurance Group Information.
        ENDURANCE_GROUP = 0x09,
        /// Persistent Event log.
        PERSISTENT_EVENT = 0x0D,
        /// Feature Identifiers Supported and Effects.
        FEATURES_SUPPORTED = 0x12,
        /// NVMe-MI Commands Supported and Effects.
        MI_COMMANDS_SUPPORTED = 0x13,
        /// SMART / Health Information Extended (OCP Datacenter NVMe SSD 4.8.5).
        OCP_SMART = 0xC0,
    }
}
