//! Building and running a machine.

use crate::area::MountedArea;
use crate::config::MAX_VCPUS;
use crate::config::{Config, NetConfig};
use crate::console::ConsoleThread;
use crate::cpu;
use crate::error::{Error, KvmContext, SystemContext};
use crate::kick::Kick;
use crate::layout::{
    KVM_IDENTITY_MAP, KVM_TSS, Layout, MAX_VIRTIO, VIRTIO_FIRST_GSI, VIRTIO_START, VIRTIO_STEP,
};
use crate::net::NetThread;
use crate::status::{ExitCounters, NetStatus, Status};
use crate::tap::Tap;
use crate::vcpu::{self, End, Shared};
use crate::{boot, probe};
use afterimage_devices::virtio::{DeviceMemory, Interrupt, MacAddress, MmioTransport, Net, RX, TX};
use afterimage_devices::{
    Bus, BusDevice, PciConfig, PowerControl, PowerSwitch, ResetPort, SerialPort, lock,
};
use afterimage_track_kvm::{DirtyLog, Slot, enable_manual_protect};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A virtual machine that is ready to run.
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    shared: Arc<Shared>,
    stop: StopHandle,
    layout: Layout,
    // Threads end before the devices that they serve are taken apart.
    _net: Option<NetThread>,
    _console: Option<ConsoleThread>,
    _ram: Vec<Slot>,
}

/// Ends a running machine from outside; the guest is not asked.
#[derive(Clone)]
pub struct StopHandle {
    /// As in [`Shared`], which is not held here: it holds memory and tap.
    stop: Arc<AtomicBool>,
    kicks: Vec<Kick>,
}

impl StopHandle {
    /// Gets all vCPUs out of the guest and ends [`Machine::run`]. A commit
    /// that is under way comes to its end first.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.kicks.iter().for_each(Kick::kick);
    }
}

impl Machine {
    /// Builds a machine, loads its kernel and starts the threads of its
    /// devices.
    ///
    /// # Errors
    /// [`Error`] says what is missing.
    pub fn new(config: Config) -> Result<Self, Error> {
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return Err(Error::Vcpus(config.vcpus));
        }
        let kvm = probe::open()?;
        let supported = cpu::supported(&kvm)?;
        let area_lens: Vec<u64> = config.areas.iter().map(|a| a.image.len()).collect();
        let bits = cpu::address_bits(&supported);
        let layout = Layout::new(config.memory_mib, &area_lens, bits)?;
        let vm = make_vm(&kvm)?;
        let memory = Arc::new(map_ram(&layout, config.memory_mib)?);
        let virtio_devices = u32::from(config.net.is_some());
        let entry = boot::load(&config, &layout, &memory, virtio_devices)?;
        let ram = plug_ram(&vm, &memory)?;
        if !config.areas.is_empty() {
            enable_manual_protect(&vm)?;
        }
        let areas = mount_areas(&vm, ram.len(), &layout, config.areas)?;

        let power = PowerSwitch::default();
        let console_lost = Arc::new(AtomicU64::new(0));
        let mut ports = Bus::default();
        let console_output = config.console.output;
        let (serial, room) = SerialPort::new(
            irq(&vm, SerialPort::GSI)?,
            console_output,
            console_lost.clone(),
        )
        .doing("making the serial port")?;
        let serial = Arc::new(Mutex::new(serial));
        plug_ports(&mut ports, &serial, &power);
        let mut mmio = Bus::default();
        let card = match &config.net {
            Some(net) => Some(plug_net(&vm, &memory, net, &mut mmio)?),
            None => None,
        };
        let shared = Arc::new(Shared {
            ports,
            mmio,
            areas,
            net: card.as_ref().map(|card| card.net.clone()),
            power,
            exits: ExitCounters::default(),
            console_lost,
            stop: Arc::new(AtomicBool::new(false)),
        });
        let vcpus = make_vcpus(&kvm, &vm, &supported, config.vcpus, entry)?;
        let kicks = vcpus.iter().map(Kick::new).collect::<Result<_, _>>()?;
        let net = card.map(|card| NetThread::start(card.net, card.notify));
        let console = config
            .console
            .input
            .map(|input| ConsoleThread::start(input, serial, room));
        Ok(Self {
            vcpus,
            stop: StopHandle {
                stop: shared.stop.clone(),
                kicks,
            },
            shared,
            layout,
            _net: net.transpose()?,
            _console: console.transpose()?,
            _ram: ram,
        })
    }

    /// Runs the guest until it stops or is stopped.
    ///
    /// # Errors
    /// [`Error::Kvm`] and [`Error::Vcpu`] if a vCPU cannot go on.
    pub fn run(mut self) -> Result<End, Error> {
        let (ended, first) = mpsc::channel();
        let mut threads = Vec::new();
        for (id, (mut vcpu, kick)) in (0..=u8::MAX).zip(
            std::mem::take(&mut self.vcpus)
                .into_iter()
                .zip(&self.stop.kicks),
        ) {
            let (kick, shared) = (kick.clone(), self.shared.clone());
            let tell = ended.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vcpu {id}"))
                .spawn(move || {
                    let entered = kick.enter();
                    let result =
                        catch_unwind(AssertUnwindSafe(|| vcpu::run(id, &mut vcpu, &shared)));
                    drop(entered);
                    let result = result.unwrap_or_else(|_| {
                        Err(Error::Vcpu {
                            vcpu: id,
                            reason: "its thread panicked; this is a defect".into(),
                        })
                    });
                    // Nobody listens any more once the first has ended.
                    let _ = tell.send(result);
                })
                .doing("starting a vCPU thread");
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    let _ = ended.send(Err(error));
                    break;
                }
            }
        }
        let end = first
            .recv()
            .expect("this thread holds a sender until it has received");
        drop(ended);
        self.stop.stop();
        for thread in threads {
            // Its panic, if any, was caught and sent.
            let _ = thread.join();
        }
        end
    }

    /// Ends the machine from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Tells what the machine does, while it runs and afterwards. The handle
    /// keeps the machine's areas and its tap: drop it when it is done with.
    #[must_use]
    pub fn status(&self) -> StatusHandle {
        StatusHandle(self.shared.clone())
    }

    /// Where RAM and areas are in the guest's physical memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

fn make_vm(kvm: &Kvm) -> Result<Arc<VmFd>, Error> {
    let vm = kvm.create_vm().asking("making a virtual machine")?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .asking("placing the identity map")?;
    let tss = usize::try_from(KVM_TSS).expect("below 4 GiB");
    vm.set_tss_address(tss)
        .asking("placing the task state segment")?;
    vm.create_irq_chip()
        .asking("making the interrupt controllers")?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..kvm_pit_config::default()
    })
    .asking("making the timer")?;
    Ok(Arc::new(vm))
}

fn map_ram(layout: &Layout, mib: u64) -> Result<DeviceMemory, Error> {
    let ranges: Vec<(GuestAddress, usize)> = layout
        .ram
        .iter()
        .map(|ram| {
            let len = usize::try_from(ram.end - ram.start).unwrap_or(usize::MAX);
            (GuestAddress(ram.start), len)
        })
        .collect();
    DeviceMemory::from_ranges(&ranges).map_err(|source| Error::Ram { mib, source })
}

fn plug_ram(vm: &Arc<VmFd>, memory: &DeviceMemory) -> Result<Vec<Slot>, Error> {
    (0..)
        .zip(memory.iter())
        .map(|(number, region)| {
            let address = region.start_addr().0;
            Ok(Slot::plug(
                vm,
                number,
                address,
                region.get_mmap(),
                DirtyLog::Off,
            )?)
        })
        .collect()
}

fn mount_areas(
    vm: &Arc<VmFd>,
    ram_slots: usize,
    layout: &Layout,
    areas: Vec<crate::AreaConfig>,
) -> Result<Vec<MountedArea>, Error> {
    let first = u32::try_from(ram_slots).expect("RAM has two slots at most");
    (first..)
        .step_by(2)
        .zip(layout.areas.iter().zip(areas))
        .map(|(slot, (place, area))| MountedArea::new(vm, slot, *place, area))
        .collect()
}

/// An interrupt line: writing to it raises the interrupt once.
fn irq(vm: &VmFd, gsi: u32) -> Result<EventFd, Error> {
    let event = EventFd::new(EFD_NONBLOCK).doing("making an event descriptor")?;
    vm.register_irqfd(&event, gsi)
        .asking("connecting an interrupt")?;
    Ok(event)
}

const PLACES: &str = "the machine's devices have places of their own";

fn plug_ports(ports: &mut Bus, serial: &Arc<Mutex<SerialPort>>, power: &PowerSwitch) {
    let mut plug = |first: u16, count: u16, device: Arc<Mutex<dyn BusDevice>>| {
        let first = u64::from(first);
        ports
            .insert(first..first + u64::from(count), device)
            .expect(PLACES);
    };
    plug(SerialPort::PORT, SerialPort::PORTS, serial.clone());
    plug(
        PciConfig::PORT,
        PciConfig::PORTS,
        Arc::new(Mutex::new(PciConfig::default())),
    );
    plug(
        PowerControl::EVENT_PORT,
        PowerControl::PORTS,
        Arc::new(Mutex::new(PowerControl::new(power.clone()))),
    );
    plug(
        ResetPort::PORT,
        1,
        Arc::new(Mutex::new(ResetPort::new(power.clone()))),
    );
}

struct Card {
    net: Arc<Mutex<Net<Tap>>>,
    notify: [EventFd; 2],
}

fn plug_net(
    vm: &VmFd,
    memory: &Arc<DeviceMemory>,
    config: &NetConfig,
    mmio: &mut Bus,
) -> Result<Card, Error> {
    const INDEX: u32 = 0;
    const { assert!(INDEX < MAX_VIRTIO) };
    let base = VIRTIO_START + u64::from(INDEX) * VIRTIO_STEP;
    let tap = Tap::open(&config.tap)?;
    let mac = config.mac.unwrap_or_else(|| mac_for(&config.tap.name));
    let interrupt = Interrupt::new(irq(vm, VIRTIO_FIRST_GSI + INDEX)?);
    let net = Net::new(tap, mac, memory.clone(), interrupt.clone());
    let net = Arc::new(Mutex::new(net));
    let event = || EventFd::new(EFD_NONBLOCK).doing("making an event descriptor");
    let notify = [event()?, event()?];
    for (queue, value) in [(RX, 0u32), (TX, 1)] {
        let register = IoEventAddress::Mmio(base + MmioTransport::NOTIFY);
        vm.register_ioevent(&notify[queue], &register, value)
            .asking("connecting a queue's notification")?;
    }
    let copies = notify
        .iter()
        .map(EventFd::try_clone)
        .collect::<Result<_, _>>()
        .doing("copying an event descriptor")?;
    let transport = MmioTransport::new(net.clone(), memory.clone(), interrupt, copies);
    mmio.insert(
        base..base + MmioTransport::LEN,
        Arc::new(Mutex::new(transport)),
    )
    .expect(PLACES);
    Ok(Card { net, notify })
}

/// An address of the locally administered kind, the same for the same tap.
fn mac_for(tap: &str) -> MacAddress {
    let [a, b, c, d] = afterimage_delta::checksum(tap.as_bytes()).to_le_bytes();
    MacAddress([0x02, 0xaf, a, b, c, d])
}

fn make_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    supported: &kvm_bindings::CpuId,
    count: u8,
    entry: u64,
) -> Result<Vec<VcpuFd>, Error> {
    let deadline_timer = cpu::has_deadline_timer(kvm);
    (0..count)
        .map(|id| {
            let vcpu = vm.create_vcpu(u64::from(id)).asking("making a vCPU")?;
            // Before the registers: since Linux 6.12 KVM checks them against
            // the features.
            vcpu.set_cpuid2(&cpu::features(supported, deadline_timer, id, count))
                .asking("setting CPU features")?;
            cpu::set_msrs(&vcpu)?;
            cpu::set_fpu(&vcpu)?;
            cpu::set_lapic(&vcpu)?;
            // The others wait for the kernel to start them.
            if id == 0 {
                cpu::set_boot_registers(&vcpu, entry)?;
            }
            Ok(vcpu)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;
    use vm_memory::Bytes;

    #[test]
    fn devices_have_no_address_for_anything_in_an_area() {
        let layout = Layout::new(64, &[2 * MIB, 64 * MIB], 40).unwrap();
        let memory = map_ram(&layout, 64).unwrap();
        for area in &layout.areas {
            for address in [
                area.start,
                area.doorbell().start,
                area.data(),
                area.end() - 1,
            ] {
                let address = GuestAddress(address);
                assert!(memory.write_slice(&[1], address).is_err());
                assert!(memory.read_slice(&mut [0], address).is_err());
            }
        }
        assert!(memory.write_slice(&[1], GuestAddress(0)).is_ok());
    }

    #[test]
    fn a_tap_has_the_same_address_at_every_start_and_none_that_is_in_use() {
        assert_eq!(mac_for("afi0"), mac_for("afi0"));
        assert_ne!(mac_for("afi0"), mac_for("afi1"));
        // Locally administered, and no multicast.
        assert_eq!(mac_for("afi0").0[0] & 3, 2);
    }
}

/// Reads a machine's status, also while it runs.
#[derive(Clone)]
pub struct StatusHandle(Arc<Shared>);

impl StatusHandle {
    /// The status now.
    #[must_use]
    pub fn read(&self) -> Status {
        let shared = &self.0;
        Status {
            exits: shared.exits.read(),
            areas: shared.areas.iter().map(|a| a.status()).collect(),
            net: shared.net.as_ref().map(|net| {
                let counters = lock(net).counters();
                NetStatus {
                    received: counters.received,
                    sent: counters.sent,
                    receive_dropped: counters.receive_dropped,
                    send_dropped: counters.send_dropped,
                    broken_queues: counters.broken_queues,
                }
            }),
            console_bytes_lost: shared.console_lost.load(Ordering::Relaxed),
        }
    }
}
