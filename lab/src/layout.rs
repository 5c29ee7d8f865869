//! Where things are inside the lab: known to the host's side, which builds
//! the image, and to the agent, which finds them there.

/// The static busybox; `/bin` has a link for each of its commands.
pub const BUSYBOX: &str = "/bin/busybox";

/// Lines of `PATH PARAMETERS`, modules in the order to load them in.
pub const MODULE_LIST: &str = "/lib/lab/modules";

/// Folder of the modules.
pub const MODULE_DIR: &str = "/lib/lab";

/// The guest's kernel, where a guest was asked for.
pub const GUEST_KERNEL: &str = "/guest/vmlinuz";

/// The guest's initrd, where a guest was asked for.
pub const GUEST_INITRD: &str = "/guest/initrd";

/// Content of `/etc/hosts`.
pub(crate) const HOSTS: &str = "127.0.0.1 localhost\n";
