// The theme takes the focus off the buttons of its header when they are pressed, so that no tooltip stays. Who pressed by
// keyboard would lose their place, and a dialog that closes could not give the focus back; for them it stays.
document.addEventListener('click', event => {
    const button = event.target.closest?.('.theme-switch-button, .search-button, .primary-toggle, .secondary-toggle')
    if (!button) return
    if (event.detail === 0) button.blur = () => {}
    else delete button.blur
}, true)
