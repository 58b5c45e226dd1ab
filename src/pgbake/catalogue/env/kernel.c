/* Refuses a kernel that is older than the bundle's libraries are made for.
 *
 * The loader and libc say in a note which Linux they need (NT_GNU_ABI_TAG). Until glibc 2.35 the loader
 * compared it with the running kernel and said "FATAL: kernel too old"; since 2.36 nobody does (glibc's
 * NEWS of 2.36), and a program would fail somewhere in its work instead. */
#include "env.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define VERSION(major, minor, patch) (((major) << 20) + ((minor) << 10) + (patch))
#define ALIGNED(size, to) (((size) + (to) - 1) & ~((size_t)(to) - 1))

/* Raise *DATA to the newest version that a note in MEMORY asks for. */
static void read_notes(const char *memory, size_t size, size_t alignment, unsigned *newest)
{
    while (size >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *note = (const void *)memory;
        size_t to_content = sizeof *note + ALIGNED(note->n_namesz, alignment);
        size_t length = to_content + ALIGNED(note->n_descsz, alignment);
        const char *name = memory + sizeof *note;
        const ElfW(Word) *tag = (const void *)(memory + to_content);

        if (length > size)
            return;
        if (note->n_type == NT_GNU_ABI_TAG && note->n_namesz == sizeof ELF_NOTE_GNU &&
            memcmp(name, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0 && note->n_descsz >= 4 * sizeof *tag &&
            tag[0] == ELF_NOTE_OS_LINUX && VERSION(tag[1], tag[2], tag[3]) > *newest)
            *newest = VERSION(tag[1], tag[2], tag[3]);
        memory += length;
        size -= length;
    }
}

static int read_object(struct dl_phdr_info *object, size_t size, void *newest)
{
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type == PT_NOTE)
            read_notes((const char *)(object->dlpi_addr + segment->p_vaddr), segment->p_memsz,
                       segment->p_align == 8 ? 8 : 4, newest);
    }
    return 0;
}

void require_kernel(void)
{
    unsigned needed = 0, major = 0, minor = 0, patch = 0;
    struct utsname machine;

    dl_iterate_phdr(read_object, &needed);
    if (uname(&machine) != 0 || sscanf(machine.release, "%u.%u.%u", &major, &minor, &patch) < 2)
        return;
    if (VERSION(major, minor, patch < 1024 ? patch : 1023) >= needed)
        return;
    fprintf(stderr, "%s: this program needs Linux %u.%u or newer, and this machine runs %s\n",
            program_invocation_name, needed >> 20, needed >> 10 & 1023, machine.release);
    _exit(127); /* as the loader does where it cannot run a program */
}
