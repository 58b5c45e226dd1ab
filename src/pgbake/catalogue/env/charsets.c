/* iconv_open: a charset that only the machine knows is unknown.
 *
 * Behind GCONV_PATH glibc reads the gconv-modules of the directory that is compiled into it, where the machine may
 * have another libc's modules. Of charsets that both know ours come first; a charset that only those bring is
 * refused here. Where the user has set GCONV_PATH nothing is.
 */
#include "env.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <iconv.h>
#include <stdlib.h>
#include <string.h>

/* Whether WORD is the charset of LENGTH characters at NAME: case and an ending "//" do not matter. */
static bool is_charset(const char *word, const char *name, size_t length)
{
    return strncasecmp(word, name, length) == 0 && (!word[length] || strcmp(word + length, "//") == 0);
}

/* Whether one file has a line "alias NAME ..." or "module FROM TO ..." with the charset. */
static bool file_knows(const char *path, const char *name, size_t length)
{
    FILE *file = fopen(path, "re");
    char line[512], *rest, *word;
    bool known = false;

    while (file && !known && fgets(line, sizeof line, file)) {
        word = strtok_r(line, " \t\n", &rest);
        int words = !word ? 0 : strcmp(word, "alias") == 0 ? 1 : strcmp(word, "module") == 0 ? 2 : 0;
        while (!known && words-- && (word = strtok_r(NULL, " \t\n", &rest)))
            known = is_charset(word, name, length);
    }
    if (file)
        fclose(file);
    return known;
}

static bool directory_knows(const char *dir, const char *name, size_t length)
{
    char path[2 * PATH_MAX];
    struct dirent *entry;

    snprintf(path, sizeof path, "%s/gconv-modules", dir);
    if (file_knows(path, name, length))
        return true;
    snprintf(path, sizeof path, "%s/gconv-modules.d", dir);
    DIR *more = opendir(path);
    bool known = false;
    while (more && !known && (entry = readdir(more))) {
        const char *end = strrchr(entry->d_name, '.');
        snprintf(path, sizeof path, "%s/gconv-modules.d/%s", dir, entry->d_name);
        known = end && strcmp(end, ".conf") == 0 && file_knows(path, name, length);
    }
    if (more)
        closedir(more);
    return known;
}

static bool only_the_machine_knows(const char *name)
{
    size_t length = strcspn(name, "/"); /* "LATIN1//TRANSLIT" */
    const char *dirs = our_value("GCONV_PATH");
    char dir[PATH_MAX];

    if (!length || !directory_knows(machines_gconv, name, length))
        return false;
    while (next_part(&dirs, dir))
        if (directory_knows(dir, name, length))
            return false;
    return true;
}

EXPORT iconv_t iconv_open(const char *to, const char *from)
{
    if (!libc.connect)
        start();
    if (our_value("GCONV_PATH") && (only_the_machine_knows(to) || only_the_machine_knows(from))) {
        errno = EINVAL;
        return (iconv_t)-1;
    }
    return libc.iconv_open(to, from);
}
