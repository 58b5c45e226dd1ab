/* libpgbake-elsewhere.so: lets a build believe that it runs at another time, on another kernel, with another
 * number of cores, from a file system that lists directories in another order.
 *
 * `pgbake build --rebuild` loads it by LD_PRELOAD into a second build, whose outputs must be those of the
 * first. What is not told by libc (a system call of a program's own, /proc) stays as it is.
 *
 *   cc -O2 -fPIC -shared -D_GNU_SOURCE -DSECONDS=... -DRELEASE='"..."' -o libpgbake-elsewhere.so elsewhere.c
 *
 * SECONDS are added to the time of day; RELEASE is the kernel's.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

/* ---- the time of day ---- */

EXPORT int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __typeof__(&clock_gettime) next;

    if (!next)
        next = NEXT(clock_gettime);
    int result = next(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        now->tv_sec += SECONDS;
    return result;
}

EXPORT int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;

    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    *now = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
    if (zone)
        *(struct timezone *)zone = (struct timezone){0, 0};
    return 0;
}

EXPORT time_t time(time_t *result)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

EXPORT int timespec_get(struct timespec *now, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

/* ---- the kernel and its cores ---- */

EXPORT int uname(struct utsname *name)
{
    int result = NEXT(uname)(name);

    if (result == 0)
        strncpy(name->release, RELEASE, sizeof name->release - 1);
    return result;
}

EXPORT int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    int result = NEXT(sched_getaffinity)(pid, size, set);

    if (result == 0) /* one core more than there are */
        for (size_t cpu = 0; cpu < 8 * size; cpu++)
            if (!CPU_ISSET_S(cpu, size, set)) {
                CPU_SET_S(cpu, size, set);
                break;
            }
    return result;
}

EXPORT long sysconf(int name)
{
    long result = NEXT(sysconf)(name);

    return name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF ? result + 1 : result;
}

EXPORT int get_nprocs(void)
{
    return NEXT(get_nprocs)() + 1;
}

EXPORT int get_nprocs_conf(void)
{
    return NEXT(get_nprocs_conf)() + 1;
}

/* ---- the order of directories: backwards ----
 * The first call reads all entries; they are kept until the directory is closed or rewound. telldir is not
 * served: no tool for building is known to use it. */

struct listing {
    DIR *dir;
    struct dirent64 **entries;
    size_t left; /* how many are still to be handed out: from the last one down */
    struct listing *next;
};
static struct listing *listings;
static int busy; /* a spin lock: the sections below are short and call nothing of ours */

static void enter(void)
{
    while (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void leave(void)
{
    __atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}

static void forget(DIR *dir)
{
    struct listing **link = &listings, *listing;

    enter();
    while ((listing = *link) && listing->dir != dir)
        link = &listing->next;
    if (listing)
        *link = listing->next;
    leave();
    if (!listing)
        return;
    for (size_t i = 0; listing->entries && listing->entries[i]; i++)
        free(listing->entries[i]);
    free(listing->entries);
    free(listing);
}

static struct listing *list(DIR *dir)
{
    struct listing *listing;

    enter();
    for (listing = listings; listing && listing->dir != dir; listing = listing->next)
        ;
    leave();
    if (listing)
        return listing;

    __typeof__(&readdir64) next = NEXT(readdir64);
    struct dirent64 *entry;
    size_t room = 64;
    listing = calloc(1, sizeof *listing);
    listing->dir = dir;
    listing->entries = calloc(room, sizeof *listing->entries);
    while ((entry = next(dir))) {
        if (listing->left + 2 > room)
            listing->entries = realloc(listing->entries, (room *= 2) * sizeof *listing->entries);
        listing->entries[listing->left] = malloc(entry->d_reclen);
        memcpy(listing->entries[listing->left++], entry, entry->d_reclen);
    }
    listing->entries[listing->left] = NULL;
    enter();
    listing->next = listings;
    listings = listing;
    leave();
    return listing;
}

EXPORT struct dirent64 *readdir64(DIR *dir)
{
    int error = errno;
    struct listing *listing = list(dir);

    errno = error; /* the end is no error */
    return listing->left ? listing->entries[--listing->left] : NULL;
}

EXPORT struct dirent *readdir(DIR *dir)
{
    _Static_assert(sizeof(struct dirent) == sizeof(struct dirent64), "one layout on 64-bit systems");
    return (struct dirent *)readdir64(dir);
}

EXPORT int closedir(DIR *dir)
{
    forget(dir);
    return NEXT(closedir)(dir);
}

EXPORT void rewinddir(DIR *dir)
{
    forget(dir);
    NEXT(rewinddir)(dir);
}
