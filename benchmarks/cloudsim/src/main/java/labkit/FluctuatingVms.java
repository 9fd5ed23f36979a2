package labkit;

import ch.qos.logback.classic.Level;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import org.cloudsimplus.brokers.DatacenterBrokerSimple;
import org.cloudsimplus.cloudlets.Cloudlet;
import org.cloudsimplus.cloudlets.CloudletSimple;
import org.cloudsimplus.core.CloudSimPlus;
import org.cloudsimplus.datacenters.DatacenterSimple;
import org.cloudsimplus.hosts.Host;
import org.cloudsimplus.hosts.HostSimple;
import org.cloudsimplus.resources.Pe;
import org.cloudsimplus.resources.PeSimple;
import org.cloudsimplus.util.Log;
import org.cloudsimplus.utilizationmodels.UtilizationModelAbstract;
import org.cloudsimplus.utilizationmodels.UtilizationModelFull;
import org.cloudsimplus.vms.Vm;
import org.cloudsimplus.vms.VmSimple;

/**
 * Hosts full of VMs whose CPU load fluctuates, updated every 15 simulated seconds.
 *
 * <p>Arguments: hosts, VMs, simulated seconds, repeats. For each repeat, in one virtual machine so that the later ones
 * find everything compiled, prints the processor seconds that {@code start()} took in its thread (collection of garbage
 * and compilation run in others) and how often a VM's load was asked for. There is no descheduling: this is the part of
 * the twin that CloudSim Plus has, too.
 */
public final class FluctuatingVms {
    private static final double INTERVAL_SECONDS = 15;
    private static final int CORES_PER_HOST = 32;
    private static final double MIPS = 1000;

    private static long asked;

    private FluctuatingVms() {}

    public static void main(String[] arguments) {
        int hosts = Integer.parseInt(arguments[0]);
        int vms = Integer.parseInt(arguments[1]);
        double seconds = Double.parseDouble(arguments[2]);
        int repeats = Integer.parseInt(arguments[3]);
        Log.setLevel(Level.OFF);
        for (int repeat = 0; repeat < repeats; repeat++) {
            play(hosts, vms, seconds);
        }
    }

    private static void play(int hosts, int vms, double seconds) {
        CloudSimPlus simulation = new CloudSimPlus();
        DatacenterSimple datacenter = new DatacenterSimple(simulation, makeHosts(hosts));
        datacenter.setSchedulingInterval(INTERVAL_SECONDS);
        DatacenterBrokerSimple broker = new DatacenterBrokerSimple(simulation);
        List<Vm> machines = new ArrayList<>(vms);
        List<Cloudlet> work = new ArrayList<>(vms);
        for (int number = 0; number < vms; number++) {
            Vm vm = new VmSimple(number, MIPS, 1);
            vm.setRam(4096).setBw(10).setSize(10);
            machines.add(vm);
            Cloudlet load = new CloudletSimple(number, (long) (MIPS * seconds * 10), 1);
            load.setUtilizationModelCpu(new Noise(number));
            load.setUtilizationModelRam(new UtilizationModelFull());
            load.setVm(vm);
            work.add(load);
        }
        broker.submitVmList(machines);
        broker.submitCloudletList(work);
        simulation.terminateAt(seconds);
        asked = 0;
        long start = ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
        simulation.start();
        long end = ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
        System.out.printf("%.3f %d%n", (end - start) / 1e9, asked);
    }

    private static List<Host> makeHosts(int count) {
        List<Host> hosts = new ArrayList<>(count);
        for (int number = 0; number < count; number++) {
            List<Pe> cores = new ArrayList<>(CORES_PER_HOST);
            for (int core = 0; core < CORES_PER_HOST; core++) {
                cores.add(new PeSimple(MIPS));
            }
            hosts.add(new HostSimple(512 * 1024L, 10_000L, 1_000_000L, cores));
        }
        return hosts;
    }

    /** A value between 0 and 0.8 that changes with every step, from whole-number hashing. */
    private static final class Noise extends UtilizationModelAbstract {
        private final long seed;

        Noise(long seed) {
            this.seed = seed;
        }

        @Override
        protected double getUtilizationInternal(double time) {
            asked++;
            long mixed = seed * 0x9E3779B97F4A7C15L + (long) (time / INTERVAL_SECONDS);
            mixed = (mixed ^ (mixed >>> 30)) * 0xBF58476D1CE4E5B9L;
            mixed = (mixed ^ (mixed >>> 27)) * 0x94D049BB133111EBL;
            return ((mixed ^ (mixed >>> 31)) >>> 11) * 0x1.0p-53 * 0.8;
        }
    }
}
