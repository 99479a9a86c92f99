#include "src/cli/options.h"

static const char usage[] =
	"numavisor runs an x86-64 guest on many virtual CPUs\n"
	"\n"
	"  numavisor run --kernel FILE [flags]   start a guest and wait for its end\n"
	"  numavisor topology                    show the host's processors and memory\n"
	"  numavisor --help | --version\n"
	"\n"
	"Flags of run:\n"
	"  --kernel FILE        Linux bzImage, ELF with a PVH entry, or multiboot kernel\n"
	"  --initrd FILE        initial RAM disk, or the module of a multiboot kernel\n"
	"  --append STRING      kernel command line, e.g. 'console=ttyS0'\n"
	"  --cpus N             1 to 1024 virtual CPUs in one socket [1], or their shape:\n"
	"         sockets=S,cores=C,threads=T    one guest NUMA node a socket\n"
	"  --memory SIZE        guest memory, with suffix K, M, G or T [512M]\n"
	"  --overcommit         allow more memory than the host has\n"
	"  --disk path=FILE[,readonly]           raw image or block device; repeatable\n"
	"  --net user[,hostfwd=tcp:127.0.0.1:5432-:5432]...   network without privileges\n"
	"  --net tap=NAME       network through an existing tap interface\n"
	"  --rng                entropy device\n"
	"  --engine NAME        what executes guest code: auto, interp, bt [auto]\n"
	"  --check interp[:N]   hold translated code against the interpreter\n"
	"  --exact-flags        translated code keeps flags that only a fault would show\n"
	"  --serial stdio | file:FILE | pty      where the guest's ttyS0 goes [stdio]\n"
	"  --bt-log FILE        write guest and host code of all that is translated\n"
	"  --perf-map           name translated code for perf, in /tmp/perf-PID.map\n"
	"  --gdb-jit            name translated code and stubs for gdb\n"
	"  --stats FILE         write counters of every virtual CPU as JSON at the end\n"
	"  --test-device        the test device of kvm-unit-tests\n"
	"\n"
	"On a terminal, Ctrl-A X leaves, Ctrl-A H helps, Ctrl-A Ctrl-A sends one Ctrl-A.\n"
	"Ctrl-C twice, or SIGTERM, asks the guest to power off, then ends.\n"
	"Exit status: 0 the guest powered off, 1 it crashed, 2 wrong usage, 3 the host\n"
	"failed, 128+N ended by signal N; or what the guest wrote to its debug-exit port.\n";

void options_usage(FILE *out)
{
	fputs(usage, out);
}

void options_version(FILE *out)
{
	fprintf(out, "numavisor " NV_VERSION "\n");
}
