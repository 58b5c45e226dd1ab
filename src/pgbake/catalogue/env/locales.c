/* Locales: a locale that the bundle lacks does not come from the machine.
 *
 * Behind the directories of LOCPATH glibc looks into the machine's /usr/lib/locale, and there it looks for
 * en_US.UTF-8 before it looks for our en_US.utf8. The sort order of a database must not depend on what some
 * other libc has there. So these functions hand on names of the bundle's own directories only; another locale is
 * one that does not exist. Where the user has set LOCPATH they do nothing.
 */
#include "env.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* In the order of LC_*, which is also that of a composite name. */
static const struct {
    int number;
    const char *name;
} categories[] = {
    {LC_CTYPE, "LC_CTYPE"}, {LC_NUMERIC, "LC_NUMERIC"}, {LC_TIME, "LC_TIME"}, {LC_COLLATE, "LC_COLLATE"},
    {LC_MONETARY, "LC_MONETARY"}, {LC_MESSAGES, "LC_MESSAGES"}, {LC_PAPER, "LC_PAPER"}, {LC_NAME, "LC_NAME"},
    {LC_ADDRESS, "LC_ADDRESS"}, {LC_TELEPHONE, "LC_TELEPHONE"}, {LC_MEASUREMENT, "LC_MEASUREMENT"},
    {LC_IDENTIFICATION, "LC_IDENTIFICATION"},
};

#define LONGEST 128 /* characters of one locale's name, with its end */
typedef char name_of_locale[LONGEST];

static bool is_in(const char *dir, const char *name)
{
    char file[2 * PATH_MAX];

    snprintf(file, sizeof file, "%s/%s/LC_CTYPE", dir, name);
    return access(file, F_OK) == 0;
}

static bool has_locale(const char *name)
{
    const char *dirs = our_value("LOCPATH");
    char dir[PATH_MAX];

    while (next_part(&dirs, dir))
        if (is_in(dir, name))
            return true;
    return false;
}

/* Write the codeset of NAME (what is between '.' and '@') as glibc normalises it, and its directories have it. */
static bool normalise(const char *name, name_of_locale out)
{
    size_t language = strcspn(name, ".@"), used = 0, digits = 0;
    const char *modifier = name + strcspn(name, "@");
    name_of_locale codeset = "";

    if (name[language] == '.')
        for (const char *c = name + language + 1; c < modifier && used + 1 < sizeof codeset; c++)
            if (isalnum((unsigned char)*c)) {
                digits += isdigit((unsigned char)*c) != 0;
                codeset[used++] = (char)tolower((unsigned char)*c);
            }
    int length = snprintf(out, LONGEST, "%.*s%s%s%s%s", (int)language, name, used ? "." : "",
                          used && digits == used ? "iso" : "", codeset, modifier);
    return length > 0 && length < LONGEST;
}

/* The name of the bundle's directory of a locale; false if it has none. */
static bool find(const char *name, name_of_locale out)
{
    if (strcmp(name, "C") == 0 || strcmp(name, "POSIX") == 0) {
        strcpy(out, name);
        return true;
    }
    if (!*name || strlen(name) >= LONGEST || strchr(name, '/') || name[0] == '.')
        return false;
    strcpy(out, name);
    return has_locale(out) || (normalise(name, out) && has_locale(out));
}

/* What the environment, or a composite name (LC_CTYPE=...;LC_NUMERIC=...), or a plain one says of a category. */
static bool asked_for(size_t category, const char *name, name_of_locale out)
{
    const char *variables[] = {"LC_ALL", categories[category].name, "LANG"};
    size_t length = strlen(categories[category].name);

    if (!*name) {
        for (size_t i = 0; i < LENGTH(variables) && !*name; i++) {
            name = getenv(variables[i]);
            name = name ? name : "";
        }
        return snprintf(out, LONGEST, "%s", *name ? name : "C") < LONGEST;
    }
    if (!strchr(name, ';'))
        return snprintf(out, LONGEST, "%s", name) < LONGEST;
    for (const char *part = name; *part; part += strcspn(part, ";"), part += *part == ';')
        if (strncmp(part, categories[category].name, length) == 0 && part[length] == '=') {
            int size = (int)strcspn(part + length + 1, ";");
            return snprintf(out, LONGEST, "%.*s", size, part + length + 1) < LONGEST;
        }
    return false;
}

static bool is_utf8(const char *name)
{
    name_of_locale normal;

    return normalise(name, normal) && strstr(normal, ".utf8");
}

/* Translate NAME, as it is asked for the categories of MASK, to names of the bundle's, in ALL; false if one is
 * not the bundle's. LENIENT: where the environment asks for UTF-8 in a language that the bundle lacks, as a
 * user's LANG does, a client gets UTF-8 and no language. */
static bool translate(int mask, const char *name, bool lenient, char all[LENGTH(categories) * 2 * LONGEST])
{
    name_of_locale asked, found[LENGTH(categories)];
    bool one = true;
    size_t first = LENGTH(categories), used = 0;

    for (size_t i = 0; i < LENGTH(categories); i++) {
        bool wanted = mask & (1 << categories[i].number);
        if (!wanted)
            strcpy(found[i], "C");
        else if (!asked_for(i, name, asked))
            return false;
        else if (!find(asked, found[i])) {
            if (!lenient || *name || !is_utf8(asked))
                return false;
            strcpy(found[i], "C");
            if (categories[i].number == LC_CTYPE && !find("C.UTF-8", found[i]))
                return false;
        }
        if (wanted && first == LENGTH(categories))
            first = i;
        one &= !wanted || strcmp(found[i], found[first]) == 0;
    }
    if (first == LENGTH(categories))
        return false;
    if (one)
        strcpy(all, found[first]);
    else
        for (size_t i = 0; i < LENGTH(categories); i++)
            used += (size_t)sprintf(all + used, "%s%s=%s", used ? ";" : "", categories[i].name, found[i]);
    return true;
}

EXPORT char *setlocale(int category, const char *name)
{
    char all[LENGTH(categories) * 2 * LONGEST];
    int mask = 0;

    if (!libc.connect)
        start();
    if (!name || !our_value("LOCPATH"))
        return libc.setlocale(category, name);
    for (size_t i = 0; i < LENGTH(categories); i++)
        if (category == LC_ALL || category == categories[i].number)
            mask |= 1 << categories[i].number;
    return translate(mask, name, category == LC_ALL, all) ? libc.setlocale(category, all) : NULL;
}

EXPORT locale_t newlocale(int mask, const char *name, locale_t base)
{
    char all[LENGTH(categories) * 2 * LONGEST];

    if (!libc.connect)
        start();
    if (mask == 1 << LC_ALL)
        mask = LC_ALL_MASK;
    /* Of no category glibc makes a locale by any name: libgfortran asks so, and frees the answer unseen. */
    if (!name || !(mask & LC_ALL_MASK) || !our_value("LOCPATH"))
        return libc.newlocale(mask, name, base);
    if (!translate(mask, name, false, all)) {
        errno = ENOENT;
        return (locale_t)0;
    }
    return libc.newlocale(mask, all, base);
}

/* By this name the C++ library calls it. */
EXPORT locale_t __newlocale(int mask, const char *name, locale_t base)
{
    return newlocale(mask, name, base);
}

/* ---- locale -a ---- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* What "locale -a" should print, which the server reads to import collations: the locales of LOCPATH. The
 * program cannot be asked: locale(1) lists the directory compiled into libc and ignores LOCPATH. Of two names of one locale (en_US.UTF-8, en_US.utf8) it is the normalised one, as there. */
FILE *list_locales(const char *locpath)
{
    int fd = memfd_create("locale -a", MFD_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w+");
    char dir[PATH_MAX];

    if (!file) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    fputs("C\nPOSIX\n", file);
    while (next_part(&locpath, dir)) {
        struct dirent **names = NULL;
        int count = scandir(dir, &names, NULL, by_name);
        for (int i = 0; i < count; i++) {
            char collate[2 * PATH_MAX];
            name_of_locale normal;
            snprintf(collate, sizeof collate, "%s/%s/LC_COLLATE", dir, names[i]->d_name);
            bool other_name = normalise(names[i]->d_name, normal) && strcmp(normal, names[i]->d_name) != 0;
            if (access(collate, R_OK) == 0 && !(other_name && is_in(dir, normal)))
                fprintf(file, "%s\n", names[i]->d_name);
            free(names[i]);
        }
        free(names);
    }
    rewind(file);
    return file;
}
