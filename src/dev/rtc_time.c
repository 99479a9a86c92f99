#include "src/dev/rtc_time.h"

#include <time.h>

#define HOUR_PM	  0x80
#define DONT_CARE 0xc0

static uint8_t encode(uint8_t mode, unsigned v)
{
	return mode & RTC_B_BINARY ? v : v / 10 << 4 | v % 10;
}

static unsigned decode(uint8_t mode, uint8_t v)
{
	return mode & RTC_B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(uint8_t mode, unsigned h)
{
	if (mode & RTC_B_24_HOURS)
		return encode(mode, h);
	return encode(mode, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(uint8_t mode, uint8_t v)
{
	if (mode & RTC_B_24_HOURS)
		return decode(mode, v);
	return decode(mode, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

void rtc_time_store(uint8_t *cmos, uint8_t mode, int64_t seconds)
{
	time_t t = seconds;
	struct tm tm;

	if (!gmtime_r(&t, &tm))
		return;
	cmos[RTC_SECONDS] = encode(mode, tm.tm_sec);
	cmos[RTC_MINUTES] = encode(mode, tm.tm_min);
	cmos[RTC_HOURS] = encode_hour(mode, tm.tm_hour);
	cmos[RTC_WEEKDAY] = encode(mode, tm.tm_wday + 1);
	cmos[RTC_DAY] = encode(mode, tm.tm_mday);
	cmos[RTC_MONTH] = encode(mode, tm.tm_mon + 1);
	cmos[RTC_YEAR] = encode(mode, tm.tm_year % 100);
	cmos[RTC_CENTURY] = encode(mode, (tm.tm_year + 1900) / 100);
}

int64_t rtc_time_load(const uint8_t *cmos, uint8_t mode)
{
	struct tm tm = {
		.tm_sec = decode(mode, cmos[RTC_SECONDS]),
		.tm_min = decode(mode, cmos[RTC_MINUTES]),
		.tm_hour = decode_hour(mode, cmos[RTC_HOURS]),
		.tm_mday = decode(mode, cmos[RTC_DAY]),
		.tm_mon = (int)decode(mode, cmos[RTC_MONTH]) - 1,
		.tm_year = (int)decode(mode, cmos[RTC_CENTURY]) * 100 +
			   (int)decode(mode, cmos[RTC_YEAR]) - 1900,
	};

	return timegm(&tm);
}

bool rtc_time_alarm(const uint8_t *cmos, uint8_t mode, int64_t seconds)
{
	int64_t day = seconds % 86400;
	const uint8_t now[3] = {encode(mode, day % 60), encode(mode, day / 60 % 60),
				encode_hour(mode, day / 3600)};
	const uint8_t want[3] = {cmos[RTC_SECONDS_ALARM], cmos[RTC_MINUTES_ALARM],
				 cmos[RTC_HOURS_ALARM]};
	unsigned i;

	for (i = 0; i < 3; i++)
		if (want[i] < DONT_CARE && want[i] != now[i])
			return false;
	return true;
}
